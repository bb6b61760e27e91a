"""The CRI RuntimeService, put together of its parts by subject.

An RPC that no part has is answered UNIMPLEMENTED: its generated body raises, and the interceptor names it.
"""

from sampan.api import cri_pb2_grpc as rpc
from sampan.server.container_rpcs import ContainerRpcs
from sampan.server.event_rpcs import EventRpcs
from sampan.server.node_rpcs import NodeRpcs
from sampan.server.pod_rpcs import PodRpcs
from sampan.server.session_rpcs import SessionRpcs
from sampan.server.stream_rpcs import StreamRpcs


class RuntimeService(
    PodRpcs, ContainerRpcs, SessionRpcs, StreamRpcs, NodeRpcs, EventRpcs, rpc.RuntimeServiceServicer
):
    """Every method that a part has; the order says whose wins, and no two have the same."""
