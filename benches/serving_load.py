#!/usr/bin/env python3
"""An hour of random load on `peft serve`: nothing fails that should not, answers stay the same, and memory stays flat.

    cargo build --release
    python3 benches/serving_load.py [--minutes 60] [--clients 8] [--tenants 48] [--pause 0.2]

Six quickstarts, one for each method, make the base and the adapters; each adapter is copied to several tenants. The server has
memory for a fraction of them, and few blocks. Clients ask at random: chats and completions of all sorts, streamed or not; they
disconnect in the middle, send what is refused, load, replace and unload adapters while they are in use, look at models and
metrics. A greedy answer must be the one that the same question got the first time. In the end the server is idle, everything
is given back, and SIGTERM ends it with 0. Exits with 1 where any of this is not so.

Needs Python alone; written for Linux (/proc).
"""
import argparse, collections, http.client, json, os, pathlib, random, re, shutil, signal, subprocess, sys, tempfile, threading, time

HERE = pathlib.Path(__file__).resolve().parent
METHODS = ["lora", "dora", "vera", "adalora", "ia3", "loha"]
QUESTIONS = ["Bring Emil three coats from Vesna.", "Who are you?", "Two hats for Katla, please.", "größe 🙂", "x" * 100, "Hello"]

p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
p.add_argument("--minutes", type=float, default=60)
p.add_argument("--clients", type=int, default=8)
p.add_argument("--tenants", type=int, default=48)
p.add_argument("--pause", type=float, default=0.2, help="mean seconds between two requests of a client")
p.add_argument("--adapter-memory", default="3MB")
p.add_argument("--cache-memory", default="1MB")
p.add_argument("--seed", type=int, default=0)
p.add_argument("--peft", default=HERE.parent / "target/release/peft", help="our binary")
a = p.parse_args()

folder = pathlib.Path(tempfile.mkdtemp(prefix="serving-load-"))
for method in METHODS:
    made = ["quickstart", "--method", method, "--max-steps", "3", "--output", folder / method]
    subprocess.run([a.peft, *made], check=True, capture_output=True)
tenants = [f"{METHODS[i % len(METHODS)]}-{i // len(METHODS)}" for i in range(a.tenants)]
for tenant in tenants:
    shutil.copytree(folder / tenant.split("-")[0] / "adapter", folder / "tenants" / tenant)
server = subprocess.Popen(
    [str(c) for c in [a.peft, "serve", "--model", folder / "lora/base", "--name", "base", "--adapters", folder / "tenants", "--port", 0,
                      "--adapter-memory", a.adapter_memory, "--cache-memory", a.cache_memory, "--max-batch", 16, "--max-queue", 64]],
    stderr=subprocess.PIPE, text=True)
port = None
for line in server.stderr:
    if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
        port = int(found[1])
        break
threading.Thread(target=lambda: collections.deque(server.stderr, 0), daemon=True).start()

lock = threading.Lock()
counts, wrong, answers = collections.Counter(), [], {}
end = time.monotonic() + a.minutes * 60


def call(method, path, body=None, read=None):
    """Status and body of a request; `read` chunks of a stream and then no more."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, {"content-type": "application/json"})
        answer = connection.getresponse()
        if read is None:
            return answer.status, answer.read().decode()
        for _ in range(read):
            answer.readline()
        return answer.status, None
    finally:
        connection.close()


def note(what, status, allowed, said):
    with lock:
        counts[what, status] += 1
        if status not in allowed and len(wrong) < 20:
            wrong.append(f"{what}: {status} {said}")


def text_of(said, stream):
    """The texts of the choices, from a whole answer or a stream of events."""
    texts = collections.defaultdict(str)
    parts = [json.loads(line[6:]) for line in said.split("\n") if line.startswith("data: {")] if stream else [json.loads(said)]
    for part in parts:
        if "error" in part:
            raise ValueError(part["error"])
        for choice in part["choices"]:
            texts[choice["index"]] += choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or ""
    return [texts[index] for index in sorted(texts)]


def ask(r):
    name, question = r.choice(["base", *tenants, *tenants]), r.choice(QUESTIONS)
    chat, greedy, stream = r.random() < 0.5, r.random() < 0.5, r.random() < 0.5
    body = {"model": name, "max_tokens": r.choice([1, 8, 24, 60]), "stream": stream, "temperature": 0 if greedy else r.uniform(0.1, 2)}
    body["messages" if chat else "prompt"] = [{"role": "user", "content": question}] if chat else question
    if not greedy:
        body |= r.choice([{}, {"seed": r.randrange(99)}, {"n": 3}, {"top_p": 0.8, "min_p": 0.02}, {"presence_penalty": 0.5}, {"stop": ["e", "\n"]},
                          {"logprobs": True, "top_logprobs": 3} if chat else {"logprobs": 2}, {"logit_bias": {"5": -100}}])
    path = "/v1/chat/completions" if chat else "/v1/completions"
    # Too many requests, no room for the adapter, or unloaded and not looked for again yet: the server's to say.
    allowed = {200, 429, 503} | ({404} if name != "base" else set())
    if stream and r.random() < 0.2:
        status, _ = call("POST", path, body, read=r.randrange(6))
        return note("disconnect", status, allowed, "")
    status, said = call("POST", path, body)
    note("ask", status, allowed, said[:300])
    if status == 200:
        got = text_of(said, stream)
        if greedy:
            key = (name.split("-")[0], question, chat, body["max_tokens"])
            with lock:
                if answers.setdefault(key, got) != got:
                    wrong.append(f"{name} answered {key} otherwise: {got} and not {answers[key]}")


def refused(r):
    body, status = r.choice([({"model": "nobody", "prompt": "x"}, 404), ({"model": "base", "prompt": "x", "tools": []}, 400),
                             ({"model": "base", "prompt": "x", "max_tokens": 10**7}, 400), ({"model": "base"}, 400), ({"model": "base", "prompt": "x", "top_p": 7}, 400)])
    got, said = call("POST", "/v1/completions", body)
    note("refused", got, {status, 429}, said[:300])


def manage(r):
    name = r.choice(tenants)
    if r.random() < 0.5:
        status, said = call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": name, "load_inplace": True})
        note("load", status, {200, 503}, said[:300])
    else:
        status, said = call("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        note("unload", status, {200, 404}, said[:300])
        status, said = call("GET", "/v1/lora_adapters?refresh=true")
        note("refresh", status, {200}, said[:300])


def look(r):
    path = r.choice(["/v1/models", "/metrics", "/health", "/v1/lora_adapters", "/", "/v1/models/base"])
    status, said = call("GET", path)
    note("look", status, {200}, said[:300])


def client(seed):
    r = random.Random(f"{a.seed} {seed}")
    while time.monotonic() < end:
        try:
            r.choices([ask, refused, manage, look], [80, 5, 7, 8])[0](r)
        except Exception as error:
            with lock:
                wrong.append(f"{type(error).__name__}: {error}")
        time.sleep(r.expovariate(1 / a.pause))


def metrics():
    return {k: float(v) for k, v in re.findall(r"^([\w:]+)(?:\{[^}]*\})? ([\d.e+-]+)$", call("GET", "/metrics")[1], re.M)}


def resident():
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{server.pid}/status").read())[1]) / 1024


clients = [threading.Thread(target=client, args=(i,)) for i in range(a.clients)]
for one in clients:
    one.start()
print("| minute | requests | resident, MiB | adapters in memory | evictions | preemptions |\n| ---: | ---: | ---: | ---: | ---: | ---: |")
started, shown = time.monotonic(), 0
while any(one.is_alive() for one in clients):
    time.sleep(1)
    minute = (time.monotonic() - started) / 60
    if minute >= shown or not any(one.is_alive() for one in clients):
        m = metrics()
        print(f"| {minute:.0f} | {sum(counts.values())} | {resident():.0f} | {m['peft:adapters_resident']:.0f} | {m['peft:adapter_evictions_total']:.0f} "
              f"| {m['vllm:num_preemptions_total']:.0f} |", flush=True)
        shown = minute + max(a.minutes / 6, 1 / 60)
for _ in range(100):
    m = metrics()
    left = {k: m[k] for k in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "peft:adapter_leases") if m[k]}
    if not left:
        break
    time.sleep(0.1)
if left:
    wrong.append(f"not given back: {left}")
server.send_signal(signal.SIGTERM)
if (code := server.wait(60)) not in (0, 143):
    wrong.append(f"SIGTERM ended it with {code}")
shutil.rmtree(folder)
print()
for (what, status), count in sorted(counts.items()):
    print(f"{what} {status}: {count}")
print(f"{m['vllm:generation_tokens_total']:.0f} tokens, {len(answers)} greedy questions that always got the same answer")
print(*wrong, sep="\n")
sys.exit(bool(wrong))
