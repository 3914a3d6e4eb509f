"""Rules on signals: bounds, names, order, and what must not be rejected."""

import numpy as np
import pyarrow as pa
import pytest

from core import config
from core.errors import UserError
from data_engine import languages, signals
from data_engine.decide import judge_table
from data_engine.language import LanguageConfig
from data_engine.policies import Policies, Rule
from data_engine.policies.base import Verdict, judge

PROSE = (
    "The harbour wakes before the town does. Men in yellow coats carry crates of ice to the boats, and gulls wait "
    "on the roofs for what falls. By six the first lorries have left with the catch of the night.\n"
    "My grandmother sold fish here for forty years, and she never learned to swim. She said that the sea would not "
    "have her because she owed it too much money.\n"
    "When the market closed, she kept her knife and gave away the scales. I have the knife now, with its handle worn "
    "thin by a hand that was smaller than mine."
)


def verdict(text, language="en", **changes):
    policies = Policies.model_validate(changes)
    measured = signals.measure(pa.array([text]), [language], policies)
    result = Verdict.clear(1)
    judge(policies.enabled(), measured, result)
    return result.reasons[0]


def test_prose_passes_every_published_threshold():
    assert verdict(PROSE) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Too short to keep.", "gopher_quality:short_doc"),
        (PROSE.replace(" a", " #a").replace(" h", " #h"), "gopher_quality:hash_ratio"),
        (PROSE.replace(". ", "... ").replace("the", "the..."), "gopher_quality:ellipsis_ratio"),
        (PROSE + " 12 34 56 78" * 20, "gopher_repetition:top_3_gram"),
        (PROSE.replace("The harbour", "lorem ipsum harbour"), "c4:lorem_ipsum"),
        (PROSE.replace("ice", "{ice}"), "c4:curly_bracket"),
        (" ".join(f"item{n} list{n * 7} number{n}" for n in range(40)) + ".", "gopher_quality:stop_words"),
        ("\n".join(f"Item number {n} of the list {n * 7}" for n in range(40)), "gopher_repetition:top_2_gram"),
        (PROSE + "\nBuy now\nBuy now\nBuy now\nBuy now", "gopher_repetition:duplicate_line_fraction"),
    ],
)
def test_what_each_rule_is_for(text, reason):
    assert verdict(text) == reason


OTHERS = ("gopher_quality", "c4", "fineweb")


def test_a_rule_that_is_switched_off_does_not_judge():
    assert verdict("Too short to keep.", **{name: {"enabled": False} for name in OTHERS}) is None
    changes = {"gopher_quality": {"min_words": None, "min_stop_words": None}, "c4": {"min_sentences": 1}}
    assert verdict("Too short to keep.", **changes, fineweb={"max_short_lines": None}) is None


def test_bounds_are_inclusive_and_nan_passes():
    rule = Rule("between", "x", at_least=1, at_most=2)
    assert rule.broken(np.array([0.9, 1, 2, 2.1, np.nan])).tolist() == [True, False, False, True, False]
    assert [rule.threshold(value) for value in (0.9, 2.1)] == [1, 2]


def test_the_first_rule_broken_gives_reason_value_and_threshold():
    result = Verdict.clear(2)
    result.apply("p", Rule("low", "x", at_least=5), np.array([1.0, 9.0]))
    result.apply("p", Rule("high", "x", at_most=0), np.array([1.0, 9.0]))
    assert result.reasons.tolist() == ["p:low", "p:high"]
    assert result.values.tolist() == [1, 9]
    assert result.thresholds.tolist() == [5, 0]


CHINESE = "清晨，港口比城里醒得更早。穿黄色外套的人把一箱箱冰块搬上渔船，海鸥在屋顶上等着掉下来的东西。" * 1 + (
    "六点钟，第一批卡车已经载着昨夜的渔获离开了。祖母在这里卖了四十年的鱼，却从未学会游泳。"
    "她说大海不会要她，因为她欠了它太多钱。市场关门以后，她留下了刀，把秤送给了别人。"
)
JAPANESE = (
    "港は町よりも早く目を覚ます。黄色い上着の男たちが氷の箱を船に運び、カモメは屋根の上で待っている。"
    "六時には最初のトラックが夜の漁獲を積んで出て行った。祖母はここで四十年魚を売ったが、泳ぎは覚えなかった。"
    "海は自分を欲しがらない、借金が多すぎるから、と祖母は言った。市場が閉まると、包丁だけを手元に残した。"
)
THAI = (
    "ท่าเรือตื่นก่อนเมือง ผู้ชายในเสื้อกันฝนสีเหลืองแบกลังน้ำแข็งขึ้นเรือ นกนางนวลรออยู่บนหลังคา "
    "หกโมงเช้ารถบรรทุกคันแรกออกไปพร้อมปลาที่จับได้เมื่อคืน ยายของฉันขายปลาที่นี่สี่สิบปีแต่ไม่เคยเรียนว่ายน้ำ "
    "ยายบอกว่าทะเลไม่ต้องการยายเพราะยายเป็นหนี้มากเกินไป เมื่อตลาดปิดยายเก็บมีดไว้และยกตาชั่งให้คนอื่น"
)


@pytest.mark.parametrize(("language", "text"), [("zh", CHINESE), ("ja", JAPANESE), ("th", THAI)])
def test_scripts_without_spaces_are_not_rejected_for_having_none(language, text):
    assert verdict(text, language) is None


def test_language_rules_come_first_and_need_their_score():
    measured = signals.to_arrow(
        signals.measure(pa.array([PROSE, PROSE, PROSE, ""]), ["en", "en", "de", "und"], Policies())
    )
    table = pa.table(
        {"language": ["en", "en", "de", "und"], "language_score": [0.9, 0.5, 0.99, 0.0], "signals": measured}
    )
    result = Verdict.clear(table.num_rows)
    judge_table(table, LanguageConfig(allow=["en"]), Policies(), result)
    assert result.reasons.tolist() == [None, "language:low_score", "language:not_allowed", "extract:empty"]
    assert result.thresholds[1] == 0.65


def judged(texts, document_languages, scores, policies=None, **language):
    """The reasons, as `judge_table` gives them for texts in these languages."""
    rules = config.parse(Policies, policies or {}, "test")
    measured = signals.to_arrow(signals.measure(pa.array(texts), document_languages, rules))
    table = pa.table({"language": document_languages, "language_score": scores, "signals": measured})
    result = Verdict.clear(len(texts))
    judge_table(table, config.parse(LanguageConfig, language, "test"), rules, result)
    return result


def test_thresholds_of_a_language_judge_its_documents_alone_and_leave_the_others_as_they_are():
    short = "The harbour wakes before the town does, and it is a cold morning for all of them."
    texts, found = [short, short, CHINESE, CHINESE], ["en", "de", "zh", "zh-tw"]
    calm = {"c4": {"min_sentences": None}, "gopher_quality": {"min_words": 10}}
    german = {"gopher_quality": {"min_words": 40, "min_stop_words": None}}
    chinese = {"gopher_quality": {"min_words": 500}, "fineweb": {"enabled": False}}
    result = judged(texts, found, [0.9] * 4, calm | {"by_language": {"de": german, "zh, ja": chinese}})
    assert result.reasons.tolist() == [None, *["gopher_quality:short_doc"] * 3]
    assert result.thresholds.tolist()[1:] == [40, 500, 500]
    code = {name: {"enabled": False} for name in ("c4", "gopher_quality", "gopher_repetition", "fineweb")}
    result = judged([short] * 2, ["code-python", "en"], [1.0] * 2, {"by_language": {"code": code}})
    assert [reason is None for reason in result.reasons] == [True, False]
    # what a language does not name is as it is for all: 10 words, no rule on sentences
    result = judged(texts, found, [0.9] * 4, calm | {"by_language": {"de": {"gopher_quality": {"min_stop_words": 0}}}})
    assert result.reasons.tolist() == [None] * 4
    assert Policies.model_validate(Policies.model_validate(calm | {"by_language": {"de": german}}).model_dump())


def test_the_least_score_of_a_language_is_its_own():
    result = judged(
        [PROSE] * 4, ["en", "ja", "zh-tw", "zh"], [0.6] * 4, min_scores={"ja": 0.5, "zh": 0.7, "zh-tw": 0.6}
    )
    assert [reason == "language:low_score" for reason in result.reasons] == [True, False, False, True]
    assert result.thresholds[[0, 3]].tolist() == [0.65, 0.7]


@pytest.mark.parametrize(
    ("by_language", "message"),
    [
        (
            {"ja": {"gopher_quality": {"min_wordz": 1}}},
            r"by_language\.ja: gopher_quality\.min_wordz is not a setting; did you mean gopher_quality\.min_words\?",
        ),
        ({"ja": {"gopher": {"min_words": 1}}}, r"by_language\.ja: gopher is not a setting; did you mean"),
        (
            {"ja, zh": {"c4": {"max_word_length": 5}}},
            r"by_language\.ja, zh: c4\.max_word_length decides what is measured",
        ),
        ({"ja": {}, "zh, ja": {}}, "names a language twice"),
    ],
)
def test_thresholds_of_a_language_that_are_none_are_named(by_language, message):
    with pytest.raises(UserError, match=message):
        config.parse(Policies, {"by_language": by_language}, "test")


def test_signals_survive_arrow_and_null_means_not_measured():
    measured = signals.measure(pa.array([PROSE, CHINESE]), ["en", "zh"], Policies())
    assert np.isnan(measured["stop_words"][1])
    column = signals.to_arrow(measured)
    assert column[1]["stop_words"].as_py() is None
    for name, values in signals.from_arrow(column).items():
        np.testing.assert_array_equal(values, measured[name])


TOXIC = {
    "en": "You worthless fucking moron, shut your whore mouth, you shitty little cunt. Every one of you is scum.",
    "de": "Du verdammter Hurensohn, verpiss dich, du dreckige Schlampe. Ihr seid alle Arschlöcher und Wichser.",
    "fr": "Ferme ta gueule, espèce de connard, fils de pute. Vous êtes tous des enculés et des salopes.",
    "es": "Eres un hijoputa y un gilipollas de mierda. Que te jodan, cabrón, puta escoria.",
    "it": "Sei uno stronzo e un coglione di merda. Vaffanculo, brutto bastardo, testa di cazzo.",
    "pt": "Seu filho da puta, vai se foder, caralho. Vocês são todos uns otários de merda.",
    "nl": "Vuile klootzak, rot op met je hoer van een moeder. Jullie zijn allemaal debielen en mongolen.",
    "ru": "Ты мудак и пидор, иди нахуй, сука. Вы все ублюдки, блядь, и шлюхи.",
    "pl": "Ty skurwysynu, spierdalaj stąd, kurwa. Wszyscy jesteście chujami i debilami.",
}


@pytest.mark.parametrize("language", sorted(TOXIC))
def test_toxic_text_is_rejected_in_its_language(language):
    assert verdict(TOXIC[language], language) == "toxicity:toxic_words"


def test_a_mention_is_no_toxicity():
    page = f"{PROSE} He called the dog a bitch, which is what she was. To kill a process, let it die with signal nine."
    page += f" The bastard file came off badly; a stupid mistake. {PROSE}"
    assert verdict(page) != "toxicity:toxic_words"
    for harmless in ("die", "kill", "sex", "class", "assess", "Scunthorpe", "cocktail", "shitake", "Dickens", "grape"):
        assert signals.measure(pa.array([harmless]), ["en"], Policies())["toxic_words"][0] == 0, harmless


def test_every_word_list_is_readable_and_its_entries_are_words():
    for lists in (languages.stop_words(), languages.toxic_words()):
        assert (np.diff(lists.starts) > 0).all()
    for folder in ("stopwords", "wordlists"):
        for path in (languages._HERE / folder).glob("*.txt"):
            assert path.read_text(encoding="utf-8").startswith("#"), path
            for word in languages._read(folder)[path.stem]:
                assert all(c.isalnum() or c == "*" or not c.isascii() for c in word), (path, word)


@pytest.mark.parametrize(("label", "code"), [("en", "en"), ("zh-tw", "zh"), ("eng_Latn", "en"), ("arb_Arab", "arb")])
def test_labels_of_other_models_find_their_lists(label, code):
    assert languages.base(label) == code
