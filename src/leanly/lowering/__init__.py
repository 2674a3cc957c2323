"""Turns a graph into an artifact: ONNX for ONNX Runtime and OpenVINO, the graph itself for PyTorch, each proven.

Opening and running an artifact belongs in `runtimes`; choosing among them in `search`.
"""

from leanly.lowering.artifacts import lower

__all__ = ["lower"]
