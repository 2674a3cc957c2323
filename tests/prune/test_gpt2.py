import torch
from transformers import GPT2Config, GPT2Model

from tests.prune.surgery import operate


def test_one_projection_split_in_three(tmp_path, elsewhere):
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=60, n_positions=24, use_cache=False, bos_token_id=0, eos_token_id=0
    )
    _, half = operate(
        GPT2Model(config), {"input_ids": torch.randint(0, 60, (2, 16))}, tmp_path, elsewhere, macs=None
    )  # fmt: skip
    joint, output = half.kept["h.0.attn.c_attn.weight"][1], half.kept["h.0.attn.c_proj.weight"][0]
    assert torch.equal(joint.reshape(3, 16) - 32 * torch.arange(3)[:, None], output.expand(3, 16))
    assert torch.equal(output.reshape(2, 8) % 8, torch.arange(8).expand(2, 8)), "whole heads"
    split = next(node for node in half.module.graph.nodes if "split" in str(node.target))
    assert split.args[1] == [16, 16, 16]
