"""The chat page in a real browser, against the real door."""

import asyncio
import json
import re

import pytest

from serving import chat_page, errors
from tests.browser import chromium
from tests.serving.doors import KEY, listening

ENTER, ESCAPE = ("Enter", 13), ("Escape", 27)


class Talker:
    """Streams a chat as vLLM does, one word an event; drafts are accepted as its metrics say."""

    def __init__(self, words, accepted=3):
        self.words, self.accepted, self.said = words, accepted, 0
        self.bodies, self.open = [], 0

    async def generate(self, kind, body):
        self.bodies.append(body)
        self.open += 1
        try:
            if "be busy" in str(body["messages"][-1]["content"]):
                raise errors.busy(7)
            yield self.event([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
            words = self.words + ["for", "ever"] * 5000 * ("for ever" in str(body["messages"][-1]["content"]))
            for word in words:
                await asyncio.sleep(0.01)
                yield self.event([{"index": 0, "delta": {"content": word}, "finish_reason": None}])
            self.said += 1
            yield self.event([], {"prompt_tokens": 5, "completion_tokens": 2 * len(words), "total_tokens": 9})
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1

    def event(self, choices, usage=None):
        fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return f"data: {json.dumps(fields | {'choices': choices, 'usage': usage})}\n\n"

    async def limits(self):
        return {"max_model_len": 64}

    async def metrics(self):
        if self.accepted is None:
            return ""
        name = 'vllm:spec_decode_num_{}_tokens_total{{engine="0",model_name="{}"}} {}\n'
        return name.format("draft", "quick", 4.0 * self.said) + name.format(
            "accepted", "quick", self.accepted * self.said
        )


HOSTILE = ["<img src=x onerror=alert(1)>", " and\n", "```python\n", "x = 1 < 2\n", "```\n", "done"]


@pytest.fixture
def talkers():
    return {"quick": Talker(["one ", "two ", "three"]), "hostile": Talker(HOSTILE, accepted=None)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(talkers):
    with listening(talkers, chat_page=True) as (_, client):
        yield client


def enter(tab, key=KEY):
    tab.wait("document.activeElement.id === 'key'")
    tab.type(key)
    tab.press(*ENTER)


def say(tab, text):
    tab.evaluate("document.getElementById('message').focus()")
    tab.type(text)
    tab.press(*ENTER)


IDLE = "!document.getElementById('send').hidden && document.querySelectorAll('.turn').length > 0"
TEXTS = "[...document.querySelectorAll('.turn .text')].map(e => e.textContent)"
STATS = "[...document.querySelectorAll('.stats')].map(e => e.textContent)"


def test_the_page_is_open_holds_nothing_and_lets_nothing_in(page):
    response = page.get("/")
    assert response.status_code == 200
    assert KEY not in response.text
    assert "quick" not in response.text, "models are for those who have a key"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://", response.text), "it needs no network"
    assert page.get("/v1/models").status_code == 401
    assert page.post("/").status_code == 401


def test_without_the_setting_there_is_no_page(talkers):
    with listening(talkers) as (_, client):
        assert client.get("/").status_code == 401


def test_the_policy_has_a_hash_for_each_block_of_the_page():
    html = "<style>a{}</style><script>1</script>"
    assert len(re.findall("'sha256-[A-Za-z0-9+/]{43}='", chat_page.policy(html))) == 2


def test_a_conversation_with_a_key_speed_and_acceptance(browser, page, talkers):
    tab = browser.visit(str(page.base_url))
    enter(tab)
    tab.wait("document.getElementById('state').textContent === '2 models'")
    say(tab, "Hello")
    tab.wait(IDLE)
    assert tab.evaluate(TEXTS) == ["Hello", "one two three"]
    [stats] = tab.evaluate(STATS)
    assert re.fullmatch(r"first token \d+ msspeed [\d.]+ tokens/stokens 6drafts accepted 75 %", stats)
    say(tab, "And then?")
    tab.wait(f"{IDLE} && document.querySelectorAll('.stats').length === 2")
    asked = [(turn["role"], turn["content"]) for turn in talkers["quick"].bodies[-1]["messages"]]
    assert asked == [("user", "Hello"), ("assistant", "one two three"), ("user", "And then?")]
    assert tab.evaluate("sessionStorage.getItem('key')") == KEY
    assert tab.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    seen = tab.seen()
    assert seen.errors == []
    asked = [url.removeprefix(str(page.base_url)).lstrip("/") for url in seen.requests if not url.startswith("data:")]
    assert set(asked) <= {"", "v1/models", "metrics", "v1/chat/completions"}
    tab.close()


def test_an_answer_is_text_and_never_markup(browser, page):
    tab = browser.visit(str(page.base_url))
    enter(tab)
    tab.wait("document.getElementById('state').textContent === '2 models'")
    tab.evaluate("document.querySelector('select').value = 'hostile'")
    say(tab, "Hello")
    tab.wait(IDLE)
    assert tab.evaluate("document.querySelectorAll('.turn img').length") == 0
    assert tab.evaluate("document.querySelector('.turn pre').textContent") == "x = 1 < 2"
    assert tab.evaluate(TEXTS)[1].startswith("<img src=x")
    assert "drafts" not in tab.evaluate(STATS)[0]
    tab.close()


def test_two_models_answer_side_by_side_and_both_stop(browser, page, talkers):
    tab = browser.visit(str(page.base_url))
    enter(tab)
    tab.wait("document.getElementById('state').textContent === '2 models'")
    tab.evaluate("document.getElementById('compare').click()")
    assert tab.evaluate("[...document.querySelectorAll('select')].map(s => s.value)") == ["quick", "hostile"]
    say(tab, "for ever")
    tab.wait("document.querySelectorAll('.turn.writing').length === 2")
    tab.wait("[...document.querySelectorAll('.turn.writing .text')].every(e => e.textContent.includes('forever'))")
    tab.press(*ESCAPE)
    tab.wait(IDLE)
    assert all("stopped" in stats for stats in tab.evaluate(STATS))
    for _ in range(200):
        if not any(talker.open for talker in talkers.values()):
            break
        tab.evaluate("new Promise(r => setTimeout(r, 20))")
    assert not any(talker.open for talker in talkers.values()), "the models go on for nobody"
    tab.resize(420)
    assert tab.seen().overflow <= 0
    tab.close()


def test_a_wrong_key_and_a_full_queue_are_said_in_words(browser, page, talkers):
    tab = browser.visit(str(page.base_url))
    enter(tab, "wrong")
    tab.wait("document.getElementById('state').textContent.includes('does not open')")
    assert tab.evaluate("document.getElementById('message').disabled")
    tab.evaluate("document.getElementById('key').value = ''; document.getElementById('key').focus()")
    tab.type(KEY)
    tab.press(*ENTER)
    tab.wait("document.getElementById('state').textContent === '2 models'")
    say(tab, "be busy")
    tab.wait(IDLE)
    assert "try again in 7 s" in tab.evaluate("document.querySelector('.turn [role=alert]').textContent")
    say(tab, "Hello")
    tab.wait(f"{IDLE} && document.querySelectorAll('.stats').length === 1")
    assert [turn["content"] for turn in talkers["quick"].bodies[-1]["messages"]] == ["Hello"]
    tab.close()


def test_a_screen_reader_finds_a_name_for_everything_that_can_be_used(browser, page):
    tab = browser.visit(str(page.base_url))
    enter(tab)
    tab.wait("document.getElementById('state').textContent === '2 models'")
    tab.evaluate("document.getElementById('settings').click()")
    usable = {"button", "textbox", "combobox", "spinbutton", "link"}
    found = [(role, name) for role, name in tab.accessible() if role in usable]
    assert found and all(name for _, name in found), found
    assert {"Key", "Message", "Model", "Send", "Compare"} <= {name for _, name in found}
    say(tab, "Hello")
    tab.wait(IDLE)
    assert "three" in tab.evaluate("document.getElementById('spoken').textContent")
    assert tab.evaluate("document.activeElement.id") == "message"
    tab.close()
