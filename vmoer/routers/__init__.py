"""One file per routing method; ``vmoer.routers.base`` holds the contract and the registry."""

from vmoer.routers.base import BayesianRouter, Posterior, RouterShape, routers

__all__ = ["BayesianRouter", "Posterior", "RouterShape", "routers"]
