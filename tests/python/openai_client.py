"""Talks to a server by the official client: `openai_client.py FILE`, where FILE holds the server's address."""

import sys

import openai

address = open(sys.argv[1]).read()
client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)

models = {model.id: model for model in client.models.list()}
assert set(models) == {"world", "lora", "dora", "adalora", "vera", "ia3"}, models
assert client.models.retrieve("vera").parent == "world"

texts = {}
for name in models:
    answer = client.completions.create(model=name, prompt="The courier", max_tokens=12, temperature=0)
    texts[name] = answer.choices[0].text
    stream = client.completions.create(model=name, prompt="The courier", max_tokens=12, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == texts[name]
assert len(set(texts.values())) >= 5, texts

ask = [{"role": "user", "content": "Who are you?"}]
both = [client.chat.completions.create(model=name, messages=ask, max_tokens=8, temperature=0) for name in ("lora", "vera")]
assert all(one.choices[0].message.role == "assistant" and one.usage.total_tokens > 0 for one in both)

many = client.chat.completions.create(
    model="lora", messages=ask, n=3, seed=1, temperature=1.0, max_tokens=6, logprobs=True, top_logprobs=3
)
assert len(many.choices) == 3 and all(len(t.top_logprobs) == 3 for c in many.choices for t in c.logprobs.content)

stream = client.chat.completions.create(
    model="lora", messages=ask, n=3, seed=1, temperature=1.0, max_tokens=6, stream=True, stream_options={"include_usage": True}
)
said, last = ["", "", ""], None
for chunk in stream:
    last = chunk
    for choice in chunk.choices:
        said[choice.index] += choice.delta.content or ""
assert said == [choice.message.content for choice in many.choices], said
assert last.usage.completion_tokens == many.usage.completion_tokens and last.choices == []

whole = client.completions.create(model="world", prompt="The courier", max_tokens=20, temperature=0).choices[0].text
stop = whole[4:7]
cut = client.completions.create(model="world", prompt="The courier", max_tokens=20, temperature=0, stop=[stop]).choices[0]
assert cut.text == whole[: whole.index(stop)] and cut.finish_reason == "stop", (whole, cut)

for error, call in [
    (openai.NotFoundError, lambda: client.chat.completions.create(model="none", messages=ask)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="lora", messages=ask, max_tokens=10**6)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="lora", messages=[])),
    (openai.BadRequestError, lambda: client.chat.completions.create(model="lora", messages=ask, tools=[{"type": "function"}])),
]:
    try:
        call()
    except error as found:
        assert found.body["message"], found
    else:
        raise AssertionError(error)
