"""Makes tests/fixtures/csv: tables as people have them, and the rows that datasets reads from them.

usage: csv_cases.py OUTPUT, a folder that is made. Made with datasets 5.2.0 and pandas 3.1.1.

`NAME.csv` and `NAME.tsv` are the tables; `expected.json` has the rows of each, with null where `datasets.load_dataset("csv")` gives None.
"""
import json, os, sys, tempfile
os.environ["HF_HUB_OFFLINE"] = "1"
import datasets
from pandas._libs.parsers import STR_NA_VALUES

datasets.disable_progress_bars()
out = os.path.abspath(sys.argv[1])
os.makedirs(out, exist_ok=True)
WORDS = sorted(STR_NA_VALUES) + ["na", "none", "Null", "nil", " NA", "NA ", "NA.", "N/A!", "#n/a", "-", "0", "text"]
TABLES = {
    # Every cell that may mean nothing, and some that only look so: as it is, and in quotes.
    "cells.csv": "at,bare,quoted\n" + "".join(f'r{at},{word},"{word}"\n' for at, word in enumerate(WORDS)),
    "cells.tsv": "at\tbare\n" + "".join(f"r{at}\t{word}\n" for at, word in enumerate(WORDS)),
    "alpaca.csv": "instruction,input,output\nDo it,,done\nDo,it,done\nDo more,NA,done too\n",
    "alpaca_chat.csv": "instruction,input,output,system\nDo it,,done,\nDo,it,done,Be brief.\nDo more,,done too,null\n",
    "missing.csv": "prompt,completion\na,b\nc,NA\n,d\ne,None\nf,\ng,none\n",
    "label.csv": "prompt,completion,label\na,b,True\nc,d,False\n",
    "weight.csv": "prompt,completion,weight\na,b,1\nc,d,1.0\n",
}
expected = {}
for name, text in TABLES.items():
    path = os.path.join(out, name)
    with open(path, "w", newline="") as file:
        file.write(text)
    with tempfile.TemporaryDirectory() as cache:
        more = {"sep": "\t"} if name.endswith(".tsv") else {}
        expected[name] = list(datasets.load_dataset("csv", data_files=path, split="train", cache_dir=cache, **more))
with open(os.path.join(out, "expected.json"), "w") as file:
    json.dump(expected, file, ensure_ascii=False, indent=1)
print({name: len(rows) for name, rows in expected.items()})
