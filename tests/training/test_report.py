from training.report import left_out, training_report

ROWS = [
    {"step": step, "loss": 8 - step / 50, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 5000.0}
    for step in range(1, 201)
]


def page(**facts):
    rows = [*ROWS[:-1], ROWS[-1] | {"validation_loss": 4.5}]
    return training_report("Pretraining", "small", facts, rows, levels={"unigram entropy": 6.6}).render()


def test_loss_learning_rate_gradient_norm_and_speed_are_drawn():
    html = page()
    for title in ("Loss", "Learning rate", "Gradient norm", "Speed"):
        assert f">{title}</h2>" in html
    assert html.count("<svg") == 4
    for legend in ("training", "validation", "unigram entropy", "nats per token"):
        assert f">{legend}</text>" in html


def test_a_fact_is_named_in_words_and_shown_with_its_standard_error():
    html = page(preference_accuracy=0.6837, preference_accuracy_standard_error=0.0196, training_loss=0.5592)
    assert "<dt>preference accuracy</dt><dd>0.684 ± 0.020</dd>" in html
    assert "<dt>training loss</dt><dd>0.5592</dd>" in html
    assert "standard error" not in html


def test_what_was_left_out_is_named_in_words():
    rows = left_out({"train": {"too_long": 2}, "heldout": {"no_answer": 1}})
    assert rows == [["train", "too long", 2], ["held out", "no answer", 1]]
