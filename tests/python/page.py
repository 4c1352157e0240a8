"""Uses the server's page as a person does, in headless Chromium: `page.py FILE`, where FILE holds the page's address.

PEFT_CHROMEDRIVER names the driver (Debian's packages `chromium` and `chromium-driver`). It speaks the W3C's WebDriver.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

page = open(sys.argv[1]).read()
driver = subprocess.Popen([os.environ["PEFT_CHROMEDRIVER"], "--port=0"], stdout=subprocess.PIPE, text=True)
port = next(m.group(1) for line in driver.stdout if (m := re.search(r"started successfully on port (\d+)", line)))
local = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"}, method=method)
    try:
        return json.load(local.open(request, timeout=60))["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


profile = tempfile.mkdtemp()
quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
args = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", f"--user-data-dir={profile}", *quiet]
wanted = {"alwaysMatch": {"goog:chromeOptions": {"args": args}, "goog:loggingPrefs": {"browser": "ALL"}}}
session = "/session/" + call("POST", "/session", {"capabilities": wanted})["sessionId"]


def script(text, *arguments):
    return call("POST", f"{session}/execute/sync", {"script": text, "args": list(arguments)})


def wait(text, *arguments):
    until = time.time() + 60
    while not (value := script("return " + text, *arguments)):
        assert time.time() < until, (text, script("return document.body.innerText"))
        time.sleep(0.05)
    return value


def element(selector):
    found = call("POST", f"{session}/element", {"using": "css selector", "value": selector})
    return f"{session}/element/" + next(iter(found.values()))


def type_into(selector, text):
    call("POST", element(selector) + "/clear", {})
    call("POST", element(selector) + "/value", {"text": text})


def click(selector):
    call("POST", element(selector) + "/click", {})


ANSWERS = "[...document.querySelectorAll('.said.assistant')].map(line => line.textContent)"
try:
    call("POST", f"{session}/url", {"url": page})
    names = wait("document.querySelectorAll('select')[0].options.length == 6 && [...document.querySelectorAll('select')[0].options].map(o => o.text)")
    assert any("base" in name for name in names) and any(name.startswith("vera") and "VERA" in name for name in names), names

    # Two adapters answer one question, side by side, and what is shown grows while they write.
    for side, model in enumerate(["lora", "vera"]):
        script("const s = document.querySelectorAll('select')[arguments[0]]; s.value = arguments[1]; s.dispatchEvent(new Event('change'))", side, model)
    script("""
        window.seen = [new Set(), new Set()];
        document.querySelectorAll('.talk').forEach((talk, i) => new MutationObserver(() => {
            const line = talk.querySelector('.said.assistant');
            if (line) window.seen[i].add(line.textContent.length);
        }).observe(talk, { subtree: true, childList: true, characterData: true }));
    """)
    type_into("#tokens", "24")
    type_into("#text", "Who are you?")
    click("#send")
    wait("!document.getElementById('send').disabled && document.querySelectorAll('.said.assistant').length == 2")
    first = script("return " + ANSWERS)
    assert all(first) and first[0] != first[1], first
    assert all(len(seen) > 2 for seen in script("return window.seen.map(s => [...s])")), "the answers came in one piece"
    expected = json.load(local.open(urllib.request.Request(
        page + "v1/chat/completions",
        json.dumps({"model": "vera", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 24, "temperature": 0}).encode(),
        {"content-type": "application/json"},
    )))
    assert first[1] == expected["choices"][0]["message"]["content"], (first, expected)

    # The talk goes on, and an error is shown where the answer would stand.
    type_into("#text", "And then?")
    click("#send")
    wait("!document.getElementById('send').disabled && document.querySelectorAll('.said.assistant').length == 4")
    type_into("#tokens", "1000000")
    type_into("#text", "Too much")
    click("#send")
    wait("document.querySelectorAll('.said.error').length == 2")
    assert "context" in script("return document.querySelector('.said.error').textContent")
    click("#clear")
    assert script("return document.querySelectorAll('.said').length") == 0
    severe = [entry for entry in call("POST", f"{session}/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]
    severe = [entry for entry in severe if "favicon" not in entry["message"] and "400 (Bad Request)" not in entry["message"]]
    assert not severe, severe
finally:
    call("DELETE", session)
    driver.terminate()
