"""The checks of ``mpi_session.py`` on how models travel and mix: by both exchanges, in both types, by every carrier."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from mpi4py import MPI

import mpisim.exchange.mixing
import mpisim.exchange.rows
from mpisim.exchange.choice import plan_messages
from mpisim.exchange.mixing import mix, positions_in_rows
from mpisim.exchange.neighborhood import NeighborhoodExchange, connect, plan_exchange
from mpisim.exchange.rows import WIRES, RowMessages
from mpisim.exchange.transport import HELD, WAYS, Transport
from mpisim.exchange.transpose import TransposedExchange, TransposePlan
from mpisim.graphs.generators import make_topology
from mpisim.graphs.placement import contiguous
from mpisim.graphs.strategies import mixing_matrix, mixing_rule
from mpisim.learning.parameters import allocate_rows
from mpisim.ranks.waiting import Waiting

WAITING = Waiting()
CPU = torch.device("cpu")


def rows_of(nodes, num_columns):
    """Return the same random models of nodes on whatever rank they are."""
    rows = allocate_rows(len(nodes), num_columns, CPU)
    for row, node in zip(rows, nodes, strict=True):
        row.copy_(torch.from_numpy(np.random.default_rng(int(node)).standard_normal(num_columns).astype(np.float32)))
    return rows


def in_bfloat16(values):
    """Return float32 values rounded to the nearest that ends in 16 zero bits; of two, to the one that is even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def both_plans(rule, rank_of_node, comm):
    return [plan_exchange(rule, rank_of_node, comm.size)[comm.rank], TransposePlan(rank_of_node, comm.rank)]


def exchange_of(comm, plan, parameters, carry=RowMessages, wire="float32", wrap=lambda graph_comm: graph_comm):
    """Return the exchange of a plan's kind, and its communicator."""
    graph_comm = wrap(connect(comm, WAITING, plan.received_from, plan.sent_to))
    kind = TransposedExchange if isinstance(plan, TransposePlan) else NeighborhoodExchange
    return kind(graph_comm, plan, parameters, carry, WIRES[wire]), graph_comm


def play(exchange, rule, plan, weights):
    """Let models travel and mix once."""
    exchange.post()
    exchange.send()
    exchange.wait(WAITING)
    exchange.mix(rule.indptr, positions_in_rows(rule.indices, plan.mixed, plan.received), weights)
    exchange.complete(WAITING)


def alone(rule, weights, rows, wire):
    """Return what one rank makes of all rows, in place."""
    mix(rows, rows[:0].to(WIRES[wire]), rule.indptr, rule.indices, weights)
    return rows


CASES = (
    ("ba:n=13,m=2,seed=0", "degree", 0.0),
    ("ring:n=7", "fl", 0.3),
    ("star:n=9", "betweenness", 0.5),
    ("er:n=11,p=0.2,seed=3", "metropolis", 0.0),
    ("path:n=5", "none", 0.0),
    ("ba:n=8,m=1,seed=2", "random", 0.0),
)


@contextmanager
def small_blocks():
    """Mix few columns at a time, so that there are several blocks of them on every rank."""
    original, mpisim.exchange.mixing.BLOCK = mpisim.exchange.mixing.BLOCK, 128
    try:
        yield
    finally:
        mpisim.exchange.mixing.BLOCK = original


@contextmanager
def torch_carries(comm):
    """Let torch.distributed carry rows for a while."""
    link = Transport("link")
    link.open(comm, WAITING, CPU)
    try:
        yield
    finally:
        WAITING.barrier(comm)
        link.close(comm, WAITING)


def check_every_exchange_mixes_to_the_bits_of_one_rank(comm, folder):
    """Whatever travels, however, from wherever: two rounds, in each of which another node takes no part."""
    with torch_carries(comm):
        every_exchange_mixes_to_the_bits_of_one_rank(comm)


def every_exchange_mixes_to_the_bits_of_one_rank(comm):
    for spec, strategy, dropout in CASES:
        topology = make_topology(spec)
        num_nodes = topology.num_nodes
        rule = mixing_rule(topology, strategy, np.ones(num_nodes), link_dropout=dropout)
        simple = contiguous(num_nodes, comm.size)
        for num_columns in (1, 200, 2000):
            for wire in WIRES:
                expected = rows_of(np.arange(num_nodes), num_columns)
                all_weights = [rule.weights(5, r, 10.0, takes_part=np.arange(num_nodes) != r) for r in (1, 2)]
                for weights in all_weights:
                    alone(rule, weights, expected, wire)
                scattered = np.random.default_rng(1).permutation(simple)
                for rank_of_node, carries in ((simple, [RowMessages]), (scattered, WAYS.values())):
                    for plan in both_plans(rule, rank_of_node, comm):
                        mine = rule.of_rows(plan.mixed)
                        for carry in carries:
                            parameters = rows_of(plan.own, num_columns)
                            exchange, graph_comm = exchange_of(comm, plan, parameters, carry, wire)
                            for r in (1, 2):
                                weights = mine.weights(5, r, 10.0, takes_part=np.arange(num_nodes) != r)
                                with small_blocks():
                                    play(exchange, mine, plan, weights)
                            assert torch.equal(parameters, expected[plan.own])
                            exchange.free()
                            graph_comm.Free()


def check_mixing_is_the_dense_product(comm, folder):
    """After an exchange X is W·X in float64; where models travel as bfloat16, of the neighbors' rounded models."""
    for spec, strategy, _ in CASES:
        topology = make_topology(spec)
        rule = mixing_rule(topology, strategy, np.ones(topology.num_nodes))
        everyone = rows_of(np.arange(topology.num_nodes), 1000).numpy()
        W = mixing_matrix(topology, strategy, seed=5).toarray()
        own_part, others_part = np.diag(np.diag(W)), W - np.diag(np.diag(W))
        for wire, heard in (("float32", everyone), ("bfloat16", in_bfloat16(everyone))):
            expected = own_part @ everyone.astype(np.float64) + others_part @ heard.astype(np.float64)
            for plan in both_plans(rule, contiguous(topology.num_nodes, comm.size), comm):
                parameters = rows_of(plan.own, 1000)
                exchange, graph_comm = exchange_of(comm, plan, parameters, wire=wire)
                mine = rule.of_rows(plan.mixed)
                play(exchange, mine, plan, mine.weights(5, 1, 10.0))
                np.testing.assert_allclose(parameters.numpy(), expected[plan.own], rtol=1e-5, atol=1e-6)
                exchange.free()
                graph_comm.Free()


def check_a_model_that_is_no_number_stays_with_its_node(comm, folder):
    """A node that takes no part is not read, whatever its model holds, and keeps it."""
    rule = mixing_rule(make_topology("complete:n=6"), "unweighted", np.ones(6))
    for wire in WIRES:
        for plan in both_plans(rule, contiguous(6, comm.size), comm):
            parameters = rows_of(plan.own, 300)
            parameters[plan.own == 2] = torch.tensor([torch.nan, torch.inf, -0.0]).repeat(100)
            exchange, graph_comm = exchange_of(comm, plan, parameters, wire=wire)
            mine = rule.of_rows(plan.mixed)
            play(exchange, mine, plan, mine.weights(5, 1, 1.0, takes_part=np.arange(6) != 2))
            for node, row in zip(plan.own, parameters.numpy(), strict=True):
                if node == 2:
                    np.testing.assert_array_equal(row, np.tile(np.float32([np.nan, np.inf, -0.0]), 100))
                    assert np.signbit(row[2::3]).all()
                else:
                    assert np.isfinite(row).all()
            exchange.free()
            graph_comm.Free()


class CountingRequests:
    """Stands in for MPI.Prequest in the exchange: notes each request that is started."""

    def __init__(self):
        self.started = []

    def Startall(self, requests):
        self.started += [id(request) for request in requests]
        MPI.Prequest.Startall(requests)


class CountingComm(MPI.Distgraphcomm):
    """A communicator that notes, of each persistent send, where it goes and how many bytes it takes."""

    def Send_init(self, message, dest, tag=0):
        request = super().Send_init(message, dest, tag)
        _, count, datatype = message
        NOTED.append((id(request), dest, count * datatype.Get_size()))
        return request


NOTED = []


def check_messages_are_those_of_the_plan(comm, folder):
    """In every round each rank sends what its plan says: one message to a rank, or one there and one back."""
    counting, original = CountingRequests(), mpisim.exchange.rows.MPI
    rule = mixing_rule(make_topology("ba:n=14,m=2,seed=1"), "degree", np.ones(14))
    for wire in WIRES:
        for plan in both_plans(rule, contiguous(14, comm.size), comm):
            NOTED.clear()
            exchange, _ = exchange_of(comm, plan, rows_of(plan.own, 1000), wire=wire, wrap=CountingComm)
            mine = rule.of_rows(plan.mixed)
            mpisim.exchange.rows.MPI = SimpleNamespace(Prequest=counting, Request=MPI.Request)
            try:
                for round in range(1, 4):
                    counting.started.clear()
                    play(exchange, mine, plan, mine.weights(5, round, 1.0))
                    sent = [(dest, size) for request, dest, size in NOTED if request in counting.started]
                    assert len(sent) == plan.num_messages
                    assert len({dest for dest, _ in sent}) == len(sent) // (1 + isinstance(plan, TransposePlan))
                    assert sum(size for _, size in sent) == plan.bytes_sent(1000, WIRES[wire])
            finally:
                mpisim.exchange.rows.MPI = original
            exchange.free()


def check_the_graph_communicator_knows_the_rows(comm, folder):
    topology = make_topology("ba:n=12,m=2,seed=0")
    rank_of_node = contiguous(12, comm.size)
    plan = plan_exchange(mixing_rule(topology, "degree", np.ones(12)), rank_of_node, comm.size)[comm.rank]
    graph_comm = connect(comm, WAITING, plan.received_from, plan.sent_to)
    sources, destinations, weights = graph_comm.Get_dist_neighbors()[:3]
    listens = (topology.adjacency.toarray() > 0)[rank_of_node == comm.rank].any(axis=0)
    expected = {rank: int(listens[rank_of_node == rank].sum()) for rank in range(comm.size) if rank != comm.rank}
    assert dict(zip(sources, weights[0], strict=True)) == {rank: rows for rank, rows in expected.items() if rows}
    assert sorted(destinations) == sorted(sources)  # the graph is undirected


def check_an_exchange_holds_what_its_plan_says(comm, folder):
    """The tensors of models that an exchange and its carriers hold, X aside, are as large as the plan foretells."""
    rule = mixing_rule(make_topology("complete:n=9"), "unweighted", np.ones(9))
    for wire in WIRES:
        for plan in both_plans(rule, contiguous(9, comm.size), comm):
            for way, carry in WAYS.items():
                parameters = rows_of(plan.own, 1000)
                exchange, _ = exchange_of(comm, plan, parameters, carry, wire)
                tensors = [value for value in vars(exchange).values() if isinstance(value, torch.Tensor)]
                if way in ("buffers", "link"):
                    tensors += buffers_of(exchange)
                if way == "staged":  # the buffers are in the host's memory, where torch takes powers of two
                    sizes = [buffer.untyped_storage().nbytes() for buffer in buffers_of(exchange)]
                    assert sum(1 << (size - 1).bit_length() for size in sizes) == plan.staged(1000, WIRES[wire])
                held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
                held.pop(parameters.untyped_storage().data_ptr())
                assert sum(held.values()) == plan.memory(1000, WIRES[wire], HELD[way]), (way, wire, plan)
                exchange.free()


def buffers_of(exchange):
    """Return the memory that an exchange's carriers pack rows into."""
    carriers = [value for value in vars(exchange).values() if hasattr(value, "start_sends")]
    return [parcel.buffer for each in carriers for parcel in (*each._arriving, *each._leaving)]


def check_the_plan_with_fewer_bytes_is_taken(comm, folder):
    """What ``plan_messages`` says on rank 0 is what the ranks' exchanges would send, summed up; the lower is taken."""
    for spec, strategy in (("ring:n=12", "degree"), ("ring:n=12", "fl"), ("ba:n=12,m=4,seed=0", "degree")):
        rule = mixing_rule(make_topology(spec), strategy, np.ones(12))
        rank_of_node = contiguous(12, comm.size)
        sent = [comm.allreduce(plan.bytes_sent(10**6)) for plan in both_plans(rule, rank_of_node, comm)]
        plans = plan_messages(rule, rank_of_node, 10**6, torch.float32, whole_rows=False)
        assert len(plans) == comm.size
        assert sum(plan.bytes_sent(10**6) for plan in plans) == min(sent)
        assert isinstance(plans[0], TransposePlan) == (sent[1] < sent[0])
