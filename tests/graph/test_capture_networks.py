import torch
from torch import nn
from transformers import BertConfig, BertModel

from leanly.graph import capture
from tests.graph.models import close


def test_bert_with_dynamic_length():
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=100,
        max_position_embeddings=24,
    )  # fmt: skip
    model = BertModel(config).eval()
    ids = torch.randint(0, 100, (2, 24))
    length = {1: "length"}
    graph = capture(
        model,
        example={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamic={"input_ids": length, "attention_mask": length},
    )
    assert not graph.notes
    assert graph.inputs[0].shape == ("batch", "length")
    assert graph.outputs[0].name == "last_hidden_state" and graph.outputs[0].shape == ("batch", "length", 32)
    for rows, size in ((1, 5), (3, 17)):
        ids = torch.randint(0, 100, (rows, size))
        mask = torch.ones_like(ids)
        mask[0, 3:] = 0
        found, expected = graph(input_ids=ids, attention_mask=mask), model(input_ids=ids, attention_mask=mask)
        close(found["last_hidden_state"], expected.last_hidden_state)
        close(found["pooler_output"], expected.pooler_output)
    operators = {str(node.target) for node in graph.module.graph.nodes}
    assert {"aten.scaled_dot_product_attention.default", "aten.layer_norm.default"} <= operators


def test_lstm_classifier():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(50, 8)
            self.rnn = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(12, 3)

        def forward(self, ids):
            states, (last, _) = self.rnn(self.words(ids))
            return self.head(states.mean(1) + torch.cat([last[0], last[1]], -1))

    model = Classifier().eval()
    graph = capture(model, example=torch.randint(0, 50, (2, 7)))
    assert "aten.lstm.input" in {str(node.target) for node in graph.module.graph.nodes}
    ids = torch.randint(0, 50, (5, 7))
    close(graph(ids), model(ids))
    graph.train()(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


def test_transformer_encoder_layer_and_multihead_attention():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    graph = capture(model.eval(), example=torch.randn(2, 5, 8))
    x = torch.randn(3, 5, 8)
    close(graph(x), model(x))


def test_an_exported_program_may_name_an_input_like_a_builtin():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    program = torch.export.export(model, (torch.randn(4, 6),), dynamic_shapes=({0: torch.export.Dim("rows")},))
    x = torch.randn(5, 6)
    close(capture(program, example=x[:2])(x), model(x))


def test_an_exported_program():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

        def forward(self, x, *, other):
            y = self.drop(self.norm(self.layer(x)))
            y.add_(1)
            return {"b": y + other, "a": y}

    model = Mixed().eval()
    batch = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        model, (torch.randn(2, 4),), {"other": torch.randn(2, 4)}, dynamic_shapes={"x": batch, "other": batch}
    )
    x, other = torch.randn(5, 4), torch.randn(5, 4)
    graph = capture(program, example={"x": x[:2], "other": other[:2]})
    found, expected = graph(x=x, other=other), model(x, other=other)
    assert list(found) == list(expected)
    for name in found:
        close(found[name], expected[name])
    assert set(graph.state_dict()) == set(model.state_dict())
    graph.train()
    assert not torch.equal(graph(x=x, other=other)["a"], graph(x=x, other=other)["a"])
