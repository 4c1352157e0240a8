"""Runs `peft quickstart` to its end on a small model of every family, and has PEFT open what it leaves.

Usage, from the repository's root: python tests/python/quickstart_families.py [--peft target/release/peft] [--max-steps 20]
The models are those of families.py with random weights, the vocabulary of datasets/world and room for its rows. Of each is
printed how the loss of the task's validation rows fell; that of the adapter in PEFT is checked against `peft eval`.
"""
import argparse, json, os, shutil, subprocess, sys, tempfile

os.environ["PYTHONHASHSEED"] = "0"  # as families.py wants it
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from transformers import AutoTokenizer
from completions_by_peft import answered
from families import CASES, fresh, made_up

WORLD = "datasets/world"
parser = argparse.ArgumentParser()
parser.add_argument("--peft", default="target/release/peft")
parser.add_argument("--max-steps", default="20")
parser.add_argument("--families", nargs="+", default=list(CASES))
a = parser.parse_args()


def run(*command):
    done = subprocess.run([a.peft, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


vocabulary = len(AutoTokenizer.from_pretrained(WORLD))
special = json.load(open(f"{WORLD}/config.json"))
for name in a.families:
    model_type, keys, _ = CASES[name]
    keys = keys | dict(vocab_size=vocabulary, max_position_embeddings=keys.get("max_position_embeddings", 512))
    keys |= {key: special[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if special.get(key) is not None}
    with tempfile.TemporaryDirectory() as folder:
        model, out, rows = f"{folder}/model", f"{folder}/run", f"{folder}/rows.jsonl"
        made_up(name, model_type, keys).save_pretrained(model)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(f"{WORLD}/{file}", model)
        with open(f"{WORLD}/task-valid.jsonl") as valid, open(rows, "w") as few:
            few.writelines(line for _, line in zip(range(16), valid))
        run("quickstart", "--model", model, "--output", out, "--max-steps", a.max_steps)
        loss = lambda *adapter: json.loads(run("eval", "--model", model, "--data", rows, "--batch-size", "1", "--json", *adapter))["loss"]
        before, after = loss(), loss("--adapter", f"{out}/adapter")
        theirs, _ = answered(model, f"{out}/adapter", rows, fresh)
        print(f"{name}: {before:.4f} to {after:.4f}, PEFT's {theirs:.4f}", flush=True)
        if not after < before or abs(theirs - after) > 1e-3:
            sys.exit(f"{name} is not as it should be")
