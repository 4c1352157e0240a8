"""What the scripts that make or measure small models share: rows of ids, and the mean loss over their target tokens."""
import json, os, shutil
import torch


def into_new_folder(path):
    """Works from now on in the folder `path`, which is made or replaced, on one thread: sums are then the same everywhere."""
    torch.set_num_threads(1)
    path = os.path.abspath(path)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    os.chdir(path)


def write_rows(name, vocab):
    """Three rows that begin with 1 and end with 2; the first three ids of each are no targets."""
    torch.manual_seed(5)
    with open(name, "w") as file:
        for length in (9, 12, 7):
            ids = [1] + torch.randint(3, vocab, (length,)).tolist() + [2]
            labels = [-100] * 3 + ids[3:]
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")


def mean_loss(model, file):
    """The mean over target tokens, as `peft eval` computes it."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in map(json.loads, open(file)):
            logits = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].float()
            labels = torch.tensor(row["labels"])[1:]
            total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
            count += (labels != -100).sum().item()
    return round(total / count, 6)


def train(model, file, steps, lr):
    """Steps of AdamW on the mean over all target tokens of the file."""
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)
    rows = [json.loads(line) for line in open(file)]
    for _ in range(steps):
        total, count = 0.0, 0
        for row in rows:
            logits = model.train()(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"])[1:]
            total = total + torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
            count += (labels != -100).sum().item()
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
