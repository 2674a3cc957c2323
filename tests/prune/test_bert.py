import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from leanly.graph import capture
from leanly.prune import Channels
from tests.prune.surgery import kept_state, operate, scrambled

SIZES = {"num_hidden_layers": 2, "vocab_size": 100, "max_position_embeddings": 24}
LENGTH = {1: "length"}


def example() -> dict[str, torch.Tensor]:
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, 15:] = 0
    return {"input_ids": torch.randint(0, 100, (2, 24)), "attention_mask": mask}


def test_heads_and_feed_forward(tmp_path, elsewhere):
    config = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, **SIZES)
    _, half = operate(
        BertModel(config), example(), tmp_path, elsewhere,
        dynamic={"input_ids": LENGTH, "attention_mask": LENGTH}, macs=None,
    )  # fmt: skip
    layer = "encoder.layer.0.attention"
    query = half.kept[f"{layer}.self.query.weight"][0]
    assert len(query) == 16 and torch.equal(query.reshape(2, 8) % 8, torch.arange(8).expand(2, 8)), "whole heads"
    assert torch.equal(half.kept[f"{layer}.output.dense.weight"][1], query)
    assert len(half.kept["encoder.layer.1.intermediate.dense.weight"][0]) == 32
    assert "embeddings.position_embeddings.weight" not in half.kept, "the last hidden state is an output"


def test_the_residual_width_as_in_a_smaller_bert():
    def model(scale: int) -> BertForSequenceClassification:
        return BertForSequenceClassification(
            BertConfig(
                hidden_size=32 // scale, num_attention_heads=4 // scale, intermediate_size=64 // scale,
                problem_type="single_label_classification", **SIZES,
            )
        )  # fmt: skip

    inputs = example()
    graph = capture(scrambled(model(1)), example=inputs)
    half = Channels(0.5)(graph)
    reference = model(2).eval()
    reference.load_state_dict(kept_state(graph, half))
    for rows in (1, 2):
        sliced = {name: tensor[:rows] for name, tensor in inputs.items()}
        with torch.no_grad():
            torch.testing.assert_close(half(**sliced)["logits"], reference(**sliced).logits, rtol=1e-4, atol=1e-5)
