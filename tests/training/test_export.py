import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from core import checkpoint
from tests.training import fixtures
from training import export
from training.chat import ChatEncoder
from training.exact_match import greedy


def test_checkpoint_loads_in_transformers_and_decodes_alike(base, tmp_path):
    """Weights, tokenizer with its template, and stop tokens: nothing of ours is needed to use it."""
    model = checkpoint.load_model(base)
    tokenizer = checkpoint.load_tokenizer(base)
    encoder = ChatEncoder(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    prompt = encoder.prompt([{"role": "user", "content": "first of red blue?"}])
    ours = greedy(model, [prompt], encoder, 20)
    saved = export.save(model, tokenizer, tmp_path, [encoder.stop_token, tokenizer.eos_token_id])

    theirs = AutoModelForCausalLM.from_pretrained(saved)
    words = AutoTokenizer.from_pretrained(saved)
    for left, right in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(left, right)
    asked = words.apply_chat_template(
        [{"role": "user", "content": "first of red blue?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    assert asked["input_ids"][0].tolist() == prompt
    with torch.no_grad():
        output = theirs.generate(**asked, max_new_tokens=20, do_sample=False)
    assert words.decode(output[0, len(prompt) :], skip_special_tokens=True).strip() == ours[0]
    assert theirs.generation_config.eos_token_id == [encoder.stop_token, tokenizer.eos_token_id]


def test_generation_of_the_saved_checkpoint_stops_at_the_end_of_the_turn(base, tmp_path):
    """The head is made to say the stop token next: generate must end there by the saved configuration alone."""
    shape = fixtures.TINY.model_copy(update={"tie_embeddings": False})
    start = checkpoint.load_model(fixtures.write_checkpoint(tmp_path / "start", shape))
    tokenizer = checkpoint.load_tokenizer(base)
    stop = ChatEncoder(tokenizer).stop_token
    with torch.no_grad():
        hidden = start.model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state[0, -1]
        start.get_output_embeddings().weight.zero_()
        start.get_output_embeddings().weight[stop] = hidden
    saved = export.save(start, tokenizer, tmp_path, [stop, tokenizer.eos_token_id])
    model = AutoModelForCausalLM.from_pretrained(saved)
    output = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=10, do_sample=False)
    assert output[0].tolist() == [5, 6, 7, stop]


def test_an_older_checkpoint_is_replaced_whole(base, tmp_path):
    tokenizer = checkpoint.load_tokenizer(base)
    target = tmp_path / export.CHECKPOINT
    target.mkdir()
    (target / "model-00001-of-00002.safetensors").write_bytes(b"of an older run")
    export.save(checkpoint.load_model(base), tokenizer, tmp_path, [tokenizer.eos_token_id])
    assert not list(target.glob("model-0*"))
    assert [entry.name for entry in tmp_path.iterdir()] == [export.CHECKPOINT]
