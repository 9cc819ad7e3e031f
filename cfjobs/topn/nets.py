"""A network's scores as the engine takes them."""

import numpy as np

from cfjobs.models.network import MlpScores
from cfjobs.topn.problem import Net


def net_of(scores: MlpScores) -> Net:
    """The layers, the first one cut into the user's part and the movie's."""
    (first, hidden_bias), *middle, (last, output_bias) = (
        (weight.cpu().numpy(), bias.cpu().numpy()) for weight, bias in scores.layers
    )
    of_user, of_movie = np.split(first, [scores.user.shape[1]], axis=1)
    return Net(
        user_weight=np.ascontiguousarray(of_user),
        movie_weight=np.ascontiguousarray(of_movie),
        hidden_bias=hidden_bias,
        middle=tuple(middle),
        output_weight=last[0],
        output_bias=float(output_bias[0]),
    )
