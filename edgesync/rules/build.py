"""Chains that were read, made ready to run; or every reason why they cannot.   [sans-IO]"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from edgesync.errors import ConfigError, gathered
from edgesync.rules import catalog
from edgesync.rules.engine import ChainSet, NodeCount, Wired
from edgesync.rules.model import CHAINS_MAX, FAILURE, RuleChain, RuleNode
from edgesync.rules.node import NodeConfig, Place
from edgesync.rules.nodes.flow import ChainInput
from edgesync.rules.scripts.check import unknown_calls
from edgesync.rules.scripts.script import ScriptSource

MISTAKES_MAX: Final = 100


class Loaded(msgspec.Struct, kw_only=True):
    """Chains ready to run.

    scripts  that the worker is to compile; doubts: what runs otherwise than it looks
    """

    chains: ChainSet
    scripts: tuple[ScriptSource, ...] = ()
    doubts: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """A chain and the file it came from."""

    file: str
    chain: RuleChain


def build(sources: Sequence[Source], *, root: str = "", has_worker: bool) -> Loaded:
    """Return chains ready to run; raises ConfigError, which has all mistakes at once.

    root        name of the chain that messages begin in; empty: the one that says so of itself
    has_worker  scripts that are no single expression can be run
    """
    builder = _Builder(sources, has_worker)
    builder.all(root)
    if builder.mistakes:
        raise gathered(builder.mistakes[:MISTAKES_MAX])
    return Loaded(
        chains=ChainSet(
            nodes=builder.nodes, firsts=builder.firsts, inputs=builder.inputs, root=builder.root
        ),
        scripts=tuple(builder.scripts),
        doubts=tuple(builder.doubts),
    )


def references(chain: RuleChain) -> list[tuple[str, ...]]:
    """Return the chains that a chain leads into, each by the ids and names it may go by."""
    found: list[tuple[str, ...]] = [(link.chain,) for link in chain.chain_connections]
    for node in chain.nodes:
        if node.type == ChainInput.node_type:
            id_ = node.configuration.get("ruleChainId")
            found.append((*((id_,) if isinstance(id_, str) else ()), node.name))
    return found


class _Builder:
    def __init__(self, sources: Sequence[Source], has_worker: bool) -> None:
        self.sources = sources
        self.mistakes: list[ConfigError] = []
        self.doubts: list[str] = []
        self.scripts: list[ScriptSource] = []
        self.nodes: dict[str, Wired] = {}
        self.firsts: dict[str, str | None] = {}
        self.inputs: dict[str, str] = {}
        self.root = ""
        self._has_worker = has_worker
        self._names: dict[str, str] = {}  # ids and names of chains → name
        self._links: dict[str, set[str]] = {}  # chain → chains that it leads into

    def all(self, root: str) -> None:
        if len(self.sources) > CHAINS_MAX:
            self._wrong(self.sources[0].file, "(folder)", f"has {len(self.sources)} chains",
                        f"at most {CHAINS_MAX}")  # fmt: skip
            return
        for source in self.sources:
            self._name_chain(source)
        for source in self.sources:
            self._chain(source)
        self._choose_root(root)
        for path in _cycles(self._links):
            problem = f"lead in a circle: {' → '.join(path)}"
            self._wrong(self._file_of(path[0]), "(chains)", problem, "cut one of these links")

    def _file_of(self, chain: str) -> str:
        return next((one.file for one in self.sources if one.chain.name == chain), "rules")

    def _wrong(self, file: str, field: str, problem: str, remedy: str) -> None:
        self.mistakes.append(ConfigError(file=file, field=field, problem=problem, remedy=remedy))

    def _name_chain(self, source: Source) -> None:
        chain = source.chain
        if chain.name in self._links:
            self._wrong(source.file, "ruleChain.name", f"is {chain.name!r}, as another chain's",
                        "rename one of them")  # fmt: skip
        self._links[chain.name] = set()
        for id_ in (chain.name, *chain.ids):
            self._names.setdefault(id_, chain.name)

    def _choose_root(self, wanted: str) -> None:
        names = [one.chain.name for one in self.sources]
        roots = [one.chain.name for one in self.sources if one.chain.is_root]
        if wanted:
            if wanted not in names:
                self._wrong("settings", "rules.root", f"names {wanted!r}",
                            f"one of {', '.join(names)}")  # fmt: skip
            roots = [wanted]
        elif len(names) == 1:
            roots = names
        if len(roots) != 1:
            which = f"{', '.join(roots)} are roots" if roots else "no chain is the root"
            self._wrong(self.sources[0].file if self.sources else "rules", "ruleChain.root", which,
                        f"name it as root in [rules]: one of {', '.join(names)}")  # fmt: skip
            return
        self.root = roots[0]
        if self.firsts.get(self.root) is None:
            self.doubts.append(f"{self.root}: has no first node: messages end where they begin")

    # -- a chain ---------------------------------------------------------------------------------

    def _chain(self, source: Source) -> None:
        chain = source.chain
        keys = [f"{chain.name}\0{node.id}" for node in chain.nodes]
        self.firsts[chain.name] = None if chain.first is None else keys[chain.first]
        targets: list[dict[str, list[str]]] = [{} for _ in keys]
        for index, connection in enumerate(chain.connections):
            node = chain.nodes[connection.source]
            self._check_relation(source, f"metadata.connections[{index}].type", node,
                                 connection.relation)  # fmt: skip
            found = targets[connection.source].setdefault(connection.relation.lower(), [])
            if keys[connection.target] not in found:
                found.append(keys[connection.target])
        for index, link in enumerate(chain.chain_connections):
            field = f"metadata.ruleChainConnections[{index}]"
            self._check_relation(source, f"{field}.type", chain.nodes[link.source], link.relation)
            name = self._resolve(source, f"{field}.targetRuleChainId", link.chain)
            if name:
                targets[link.source].setdefault(link.relation.lower(), []).append(name)
        for index, (node, key) in enumerate(zip(chain.nodes, keys, strict=True)):
            self._node(source, index, node, key, targets[index])
        edges = {
            str(at): {str(one.target) for one in chain.connections if one.source == at}
            for at in range(len(keys))
        }
        for path in _cycles(edges):
            names = " → ".join(chain.nodes[int(at)].name for at in path)
            self._wrong(source.file, "metadata.connections", f"lead in a circle: {names}",
                        "cut one of these connections")  # fmt: skip
        self._doubt_unreachable(chain, edges)

    def _doubt_unreachable(self, chain: RuleChain, edges: Mapping[str, set[str]]) -> None:
        begins = set() if chain.first is None else {str(chain.first)}
        begins |= {
            str(at)
            for at, node in enumerate(chain.nodes)
            if node.type == "debug.TbMsgGeneratorNode"
        }
        reached, todo = set(begins), list(begins)
        while todo:
            for target in edges[todo.pop()] - reached:
                reached.add(target)
                todo.append(target)
        for at, node in enumerate(chain.nodes):
            if str(at) not in reached:
                self.doubts.append(f"{chain.name} / {node.name}: no message gets there")

    def _resolve(self, source: Source, field: str, id_: str, name: str = "") -> str:
        """Return the name of the chain that an id means, or that a node is called like."""
        found = self._names.get(id_) or (self._names.get(name) if name else None)
        if found is None:
            of_node = f" and no chain is called {name!r}" if name else ""
            problem = f"names the chain {id_ or '(none)'}, which is not here{of_node}"
            remedy = "put the export of that chain beside this one"
            self._wrong(source.file, field, problem, remedy)
            return ""
        self._links[source.chain.name].add(found)
        return found

    def _check_relation(self, source: Source, field: str, node: RuleNode, relation: str) -> None:
        kind = catalog.NODES.get(node.type)
        if kind is None or kind.relations is None:
            return
        known = {one.lower(): one for one in (*kind.relations, FAILURE)}
        if relation.lower() not in known:
            self._wrong(source.file, field, f"is {relation!r}, by which no message leaves "
                        f"{node.name!r} ({node.type})", _few(known.values()))  # fmt: skip

    # -- a node ----------------------------------------------------------------------------------

    def _node(
        self, source: Source, index: int, node: RuleNode, key: str,
        targets: Mapping[str, Sequence[str]],
    ) -> None:  # fmt: skip
        field, chain = f"metadata.nodes[{index}]", source.chain.name
        kind = catalog.NODES.get(node.type)
        if kind is None:
            self._wrong(source.file, f"{field}.type", f"{node.name!r} is a {node.type}",
                        catalog.why_refused(node.type))  # fmt: skip
            return
        place = Place(key, chain, node.name, node.type)
        config = self._config(source, f"{field}.configuration", node, kind.config)
        if config is None:
            return
        try:
            made = kind(place, config, self)
        except ValueError as problem:
            self._wrong(source.file, f"{field}.configuration", f"{node.name!r} ({node.type}) "
                        f"{problem}", "")  # fmt: skip
            return
        self.doubts += [f"{place.label}: {doubt}" for doubt in kind.doubts(config)]
        if isinstance(made, ChainInput):
            name = self._resolve(
                source, f"{field}.configuration.ruleChainId", made.chain, node.name
            )
            self.inputs[key] = name
        count = NodeCount(chain=chain, node=node.name, type=node.type)
        self.nodes[key] = Wired(node=made, targets=targets, count=count)

    def _config(
        self, source: Source, field: str, node: RuleNode, kind: type[NodeConfig]
    ) -> NodeConfig | None:
        """Read each field by itself: all that are wrong are told at once."""
        values: dict[str, Any] = {}
        before = len(self.mistakes)
        for one in msgspec.structs.fields(kind):
            raw = node.configuration.get(one.encode_name)
            if raw is None:
                if one.required:
                    self._wrong(source.file, f"{field}.{one.encode_name}",
                                f"is missing in {node.name!r}", "see docs/rules.md")  # fmt: skip
                continue
            try:
                values[one.name] = msgspec.convert(raw, one.type, strict=False)
            except (msgspec.ValidationError, RecursionError) as error:
                self._wrong(source.file, f"{field}.{one.encode_name}", f"in {node.name!r}: {error}",
                            "")  # fmt: skip
        return None if len(self.mistakes) > before else kind(**values)

    # -- Scripts ---------------------------------------------------------------------------------

    def foreign(self, source: ScriptSource, problem: str) -> None:
        if not self._has_worker:
            raise ValueError(
                f"has a script that is no single expression ({problem}); the script worker runs "
                "those: pip install 'edgesync[scripts]'"
            )
        if unknown := unknown_calls(source):
            raise ValueError(
                f"has a script that calls {', '.join(unknown)}(), which nobody has here"
            )
        self.scripts.append(source)


def _few(names: Iterable[str]) -> str:
    found = sorted(names)
    return "one of " + ", ".join(found[:12]) + (" …" if len(found) > 12 else "")


def _cycles(edges: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """Return one circle for each that a walk finds, as the names on it."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack: list[tuple[str, Iterator[str]]] = []
        if start in done:
            continue
        stack.append((start, iter(sorted(edges[start]))))
        path.append(start)
        while stack:
            at, others = stack[-1]
            for other in others:
                if other in path:
                    yield [*path[path.index(other) :], other]
                elif other not in done:
                    stack.append((other, iter(sorted(edges[other]))))
                    path.append(other)
                    break
            else:
                stack.pop()
                path.pop()
                done.add(at)
