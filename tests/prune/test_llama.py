import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import kept_state, operate, scrambled

SIZES = {
    "num_hidden_layers": 2,
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "head_dim": 8,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def config(scale: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=32 // scale, num_attention_heads=8 // scale, num_key_value_heads=4 // scale,
        intermediate_size=48 // scale, **SIZES,
    )  # fmt: skip


def test_grouped_query_heads(tmp_path, elsewhere):
    _, half = operate(
        LlamaModel(config(1)), {"input_ids": torch.randint(0, 60, (2, 12))}, tmp_path, elsewhere,
        macs=None, lowered=True,
    )  # fmt: skip
    query, key = (half.kept[f"layers.0.self_attn.{name}_proj.weight"][0] for name in "qk")
    heads = [sorted({int(index) // 8 for index in kept}) for kept in (query, key)]
    assert len(query) == 32 and len(key) == 16
    assert heads[0] == [head for group in heads[1] for head in (2 * group, 2 * group + 1)], "heads go with their keys"
    gate, up = (half.kept[f"layers.1.mlp.{name}_proj.weight"][0] for name in ("gate", "up"))
    assert len(gate) == 24 and torch.equal(gate, up)


def test_the_residual_width_as_in_a_smaller_llama():
    ids = torch.randint(0, 60, (2, 12))
    graph = capture(scrambled(LlamaForCausalLM(config(1))), example={"input_ids": ids})
    half = Channels(0.5)(graph)
    reference = LlamaForCausalLM(config(2)).eval()
    reference.load_state_dict(kept_state(graph, half))
    for rows in (1, 2):
        with torch.no_grad():
            expected = reference(input_ids=ids[:rows]).logits
            torch.testing.assert_close(half(input_ids=ids[:rows])["logits"], expected, rtol=1e-4, atol=1e-5)
