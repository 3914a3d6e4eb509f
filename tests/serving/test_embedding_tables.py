import pytest


@pytest.mark.slow
def test_a_table_is_packed_by_vllm_at_its_first_product_and_gives_the_same(vllm_asked):
    table = vllm_asked["table"]
    assert table["packed_by"] == ["serving.embedding_tables", "vllm.model_executor.layers.utils"]
    assert table["packed_once"]
    assert table["looked_up"]
    assert table["error"] < 1e-4
