"""The files that a search leaves for each network, by kind: their names in a run's folder and wherever it is taken."""

FILES = {
    "architecture": "architecture.json",
    "picture": "picture.svg",
    "weights": "weights.safetensors",
    "onnx": "network.onnx",
    "torch_export": "network.pt2",
    "python": "network.py",
    "predict": "predict.py",
    "card": "README.md",
    "evaluation": "evaluation.json",
}
