"""Trains one adapter twice, with peft-burn and with Hugging Face PEFT, and compares the loss curves.

    python benches/curves_with_peft.py --peft target/release/peft --model MODEL examples/movie-sentiment.toml [--steps 50]

Both start from the same saved adapter, which PEFT initialises, and read the same rows in the same order with the same
hyper-parameters. Prints one JSON line: both curves, their largest relative difference, and the accuracy of both adapters
on the validation rows, measured by the same program. Fails where the curves part by more than --tolerance.
"""

import argparse
import json
import math
import subprocess
import tomllib
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100


def encode(tokenizer, row, max_length):
    prompt = tokenizer(row["prompt"])["input_ids"]
    completion = tokenizer(row["completion"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return {
        "input_ids": (prompt + completion)[:max_length],
        "labels": ([IGNORED] * len(prompt) + completion)[:max_length],
    }


def batch(rows, pad):
    longest = max(len(row["input_ids"]) for row in rows)

    def fill(key, value):
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return fill("input_ids", pad), fill("labels", IGNORED), mask


def rate(step, training, steps):
    """The multiplier of step 0, 1, ...: linear warm-up, then half a cosine, as Transformers has it."""
    warmup = training["warmup_steps"]
    if step < warmup:
        return step / max(1, warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model, rows, training, steps, pad):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training["learning_rate"], weight_decay=0.0)
    size, losses = training["per_device_train_batch_size"], []
    adalora = hasattr(model.base_model, "update_and_allocate")
    model.train()
    for step in range(steps):
        ids, labels, mask = batch([rows[(step * size + i) % len(rows)] for i in range(size)], pad)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = training["learning_rate"] * rate(step, training, steps)
        optimizer.step()
        if adalora:
            model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--peft", required=True, help="the binary of peft-burn")
    parser.add_argument("--model", required=True, help="a Hugging Face model folder")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output", default="runs/curves")
    parser.add_argument("--tolerance", type=float, default=0.005)
    args = parser.parse_args()
    torch.set_num_threads(2)

    config = tomllib.loads(Path(args.config).read_text())
    training, data = config["training"], config["data"]
    training["warmup_steps"] = min(training.get("warmup_steps", 0), args.steps // 5)
    output = Path(args.output) / Path(args.config).stem
    output.mkdir(parents=True, exist_ok=True)

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    lines = [json.loads(line) for line in Path(data["train"]).read_text().splitlines()]
    lines = lines[: args.steps * training["per_device_train_batch_size"]]
    rows = [encode(tokenizer, row, data["max_length"]) for row in lines]
    (output / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    adapter = dict(config["adapter"])
    kind = adapter.pop("peft_type")
    classes = {"LORA": peft.LoraConfig, "ADALORA": peft.AdaLoraConfig, "VERA": peft.VeraConfig, "IA3": peft.IA3Config}
    if kind == "ADALORA":
        fifth = args.steps // 5
        adapter |= {"tinit": fifth, "tfinal": fifth, "deltaT": 2, "total_step": args.steps}
    torch.manual_seed(args.seed)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    model = peft.get_peft_model(model, classes[kind](**adapter))
    model.save_pretrained(output / "initial")

    command = [args.peft, "train", args.config, "--overwrite"]
    settings = {
        "output": output / "ours",
        "model.path": args.model,
        "data.train": output / "train.jsonl",
        "data.shuffle": "false",
        "training.max_steps": args.steps,
        "training.warmup_steps": training["warmup_steps"],
        "training.eval_steps": args.steps,
        "training.save_steps": args.steps,
    }
    text = Path(args.config).read_text()
    start, end = text.index("[adapter]"), text.index("[data]")
    ours = output / "ours.toml"
    ours.write_text(text[:start] + f'[adapter]\nfrom = "{(output / "initial").absolute()}"\n\n' + text[end:])
    command[2] = str(ours)
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    metrics = [json.loads(line) for line in (output / "ours" / "metrics.jsonl").read_text().splitlines()]
    mine = [line["loss"] for line in metrics if line["split"] == "train"]

    theirs = train(model, rows, training, args.steps, pad)
    model.save_pretrained(output / "theirs")
    difference = max(abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True))

    def accuracy(folder):
        evaluate = [args.peft, "eval", "--model", args.model, "--adapter", str(folder), "--data", data["valid"]]
        done = subprocess.run(evaluate + ["--exact-match", "--json"], check=True, capture_output=True)
        return json.loads(done.stdout)

    report = {
        "config": args.config,
        "steps": args.steps,
        "largest_relative_difference": difference,
        "ours": {"losses": mine, "eval": accuracy(output / "ours" / "adapter")},
        "theirs": {"losses": theirs, "eval": accuracy(output / "theirs")},
    }
    print(json.dumps(report))
    if difference > args.tolerance:
        raise SystemExit(f"the curves part by {difference:.4%}")


if __name__ == "__main__":
    main()
