"""A node of the Python package distributed_state_network 1.2.0, for the comparison.

    peer.py node ID PORT FOLDER KEY [PORT-OF-ANOTHER]
        runs one; lines on stdin ask for something, lines on stdout answer:
        set VALUE       sets the key `probe`; "set" when that returned
        fill COUNT      sets so many keys of 50 bytes; "filled"
        holds COUNT     "holds N": how many nodes it knows with at least so many keys
        and "saw VALUE" whenever it reads a new value of `probe` of the node n0
    peer.py packets FOLDER KEY CLIENTS COUNT PORT OUT
        makes clients, and for each a HELLO and so many signed UPDATEs of 10 keys of 50 bytes, as
        they are posted: length (4 bytes, little-endian) and bytes of each
"""

import sys
import threading
import time
from pathlib import Path

from distributed_state_network import DSNodeConfig, DSNodeServer, Endpoint
from distributed_state_network.handler import VERSION
from distributed_state_network.objects.hello_packet import HelloPacket
from distributed_state_network.objects.state_packet import StatePacket
from distributed_state_network.util.aes import aes_encrypt
from distributed_state_network.util.ecdsa import generate_key_pair

LINES = threading.Lock()


def say(line):
    with LINES:
        print(line, flush=True)


def run_node(node_id, port, folder, key, other=None):
    last = [None]
    server = [None]

    def updated():
        node = server[0]
        if node is None or "n0" not in node.node.node_states:
            return
        value = node.read_data("n0", "probe")
        with LINES:
            if value is None or value == last[0]:
                return
            last[0] = value
            print(f"saw {value}", flush=True)

    config = DSNodeConfig(
        node_id=node_id,
        logging_dir=Path(folder) / "logs",
        credential_dir=Path(folder) / "credentials",
        port=int(port),
        network_ip="127.0.0.1",
        aes_key=key,
        bootstrap_nodes=[] if other is None else [Endpoint("127.0.0.1", int(other))],
        whitelist_node_ids=[],
    )
    server[0] = DSNodeServer.start(config, lambda text: print(text, file=sys.stderr))
    node = server[0]
    while not node.running:
        time.sleep(0.01)
    node.set_update_cb(updated)
    say("ready")
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "set":
            node.update_data("probe", value)
            say("set")
        elif command == "fill":
            # All but the last beside the API, which would send each key to all nodes by itself.
            state = node.node.node_states[node_id].state_data
            for number in range(int(value) - 1):
                state[f"key-{number:05}"] = "v" * 50
            node.update_data(f"key-{int(value) - 1:05}", "v" * 50)
            say("filled")
        elif command == "holds":
            states = list(node.node.node_states.values())
            say(f"holds {sum(len(state.state_data) >= int(value) for state in states)}")


def make_packets(folder, key, clients, count, port, out):
    key = bytes.fromhex(key)
    with open(out, "wb") as file:

        def write(kind, payload):
            body = aes_encrypt(key, bytes([kind]) + payload)
            file.write(len(body).to_bytes(4, "little") + body)

        for client in range(int(clients)):
            node_id = f"caller-{client}"
            public, private = generate_key_pair()
            # The node pings those it knows, and forgets who does not answer: it answers itself.
            endpoint = Endpoint("127.0.0.1", int(port))
            hello = HelloPacket(VERSION, node_id, endpoint, public, b"", None)
            hello.sign(private)
            write(1, hello.to_bytes())
            state = {f"key-{number:05}": "v" * 50 for number in range(10)}
            now = time.time()
            for number in range(int(count)):
                state[f"key-{number % 10:05}"] = f"{number:050}"
                packet = StatePacket.create(node_id, now + number * 1e-3, private, state)
                write(3, packet.to_bytes())


if __name__ == "__main__":
    if sys.argv[1] == "node":
        run_node(*sys.argv[2:])
    else:
        make_packets(*sys.argv[2:])
