"""One file per model family; see README.md in this folder for what differs between them."""

from vmoer.architectures.base import Architecture, RouterSite, unwrap
from vmoer.architectures.lookup import architecture_of, architectures

__all__ = ["Architecture", "RouterSite", "architecture_of", "architectures", "unwrap"]
