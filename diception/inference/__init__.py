"""Inference: images and questions in, annotations out. Training, evaluation and `Pipeline` share one `generate`."""

from diception.inference.denoise import denoise, generate
from diception.inference.pipeline import Pipeline
from diception.inference.prediction import Prediction, to_uint8
from diception.inference.requests import ImageInput, Request, check_points, make_batch, to_array

__all__ = [
    "ImageInput",
    "Pipeline",
    "Prediction",
    "Request",
    "check_points",
    "denoise",
    "generate",
    "make_batch",
    "to_array",
    "to_uint8",
]
