"""Rule chains at the edge: ThingsBoard's exports, read, checked and carried out.

    read.py      exports of three generations into `RuleChain`, every mistake named at once
    node.py      what a node is: a message in, messages by relation and effects out
    nodes/       the node types, by what they are for; catalog.py lists them
    engine.py    carries a message through the chains, with bounded work
    state.py     what nodes remember, committed with the effects of the message that changed it
    scripts/     single expressions in an evaluator of our own; everything else in a worker process
    part.py      brings messages, commits effects, keeps time

What a message leads to is a list of effects (effects.py), plain values that the part stores in one
transaction (I2). An edge without `[rules]` imports none of it.
"""
