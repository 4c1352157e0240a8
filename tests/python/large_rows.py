"""Many rows of one text each, for measuring how large files are read.

usage: large_rows.py OUTPUT.jsonl BYTES
"""
import json, os, random, sys

random.seed(1)
root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
rows = [json.loads(line) for line in open(os.path.join(root, "datasets/world/task-train.jsonl"))]
texts = [row.get("text") or row["prompt"] + row["completion"] for row in rows]
size = 0
with open(sys.argv[1], "w") as file:
    while size < int(sys.argv[2]):
        line = json.dumps({"text": " ".join(random.choices(texts, k=4))[:600]}) + "\n"
        file.write(line)
        size += len(line)
