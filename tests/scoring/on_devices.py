"""Run by a test with 8 fake devices: scores and gradients on several meshes, printed as JSON."""

import json

import jax
from scoring import tiny

from ttoaa.model.sharding import Layout, make_mesh, shardings
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.likelihood import score_requests

MESHES = {"1": (1, 1, 1), "8": (2, 2, 2)}
NUMBERS = (0, 2, 3, 7, 8, 9)
"""Of the requests; the first three are also computed without the others, the last first."""


def told_of(shape):
    data, fsdp, tensor = shape
    mesh = make_mesh(Layout(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    params = tiny.params()
    params = jax.device_put(params, shardings(mesh, params))
    requests = [tiny.requests()[number] for number in NUMBERS]
    few = requests[:3][::-1]
    with jax.set_mesh(mesh):
        scored = score_requests(tiny.MODEL, params, requests)
        gradients = embedding_gradients(tiny.MODEL, params, requests)
        again = score_requests(tiny.MODEL, params, few)
        gradients_again = embedding_gradients(tiny.MODEL, params, few)
    return {
        "log_probs": [each.log_probs.tolist() for each in scored],
        "greedy": [each.greedy.tolist() for each in scored],
        "gradients": [each.tolist() for each in gradients],
        "again": [each.log_probs.tolist() for each in again],
        "gradients_again": [each.tolist() for each in gradients_again],
    }


if __name__ == "__main__":
    print(json.dumps({name: told_of(shape) for name, shape in MESHES.items()}))
