"""What the scripts that make or measure small models share: rows of ids, and the mean loss over their target tokens."""
import json
import torch


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
