"""The files that a search leaves for each network, by kind: their names in a run's folder and wherever it is taken."""

FILES = {
    "architecture": "architecture.json",
    "picture": "picture.svg",
    "weights": "weights.safetensors",
    "onnx": "network.onnx",
    "onnx_fp16": "network.fp16.onnx",
    "onnx_int8": "network.int8.onnx",
    "torch_export": "network.pt2",
    "python": "network.py",
    "predict": "predict.py",
    "card": "README.md",
    "evaluation": "evaluation.json",
}
