"""Ray's nodes of a make-believe cloud, for its autoscaler: processes of this machine, gone when they are killed."""

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class SpotNodes(FakeMultiNodeProvider):
    """Ray's own fake nodes, but one that is killed is no longer listed, like an instance that a cloud takes away."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> Any:
        """The nodes that are there."""
        with self.lock:
            nodes: dict[str, Any] = self._nodes
            for node_id, told in list(nodes.items()):
                if "node" in told and not told["node"].remaining_processes_alive():
                    self.terminate_node(node_id)  # type: ignore[no-untyped-call]
        return super().non_terminated_nodes(tag_filters)  # type: ignore[no-untyped-call]
