"""`edgesync service`: run the edge under systemd."""

from pathlib import Path

from edgesync.cli.unit import Service, make_group


def _edge(config: Path) -> Service:
    from edgesync.settings import read_settings

    settings = read_settings(config)
    return Service(
        program="edgesync",
        what=f"edgesync, the edge {settings.edge.name}",
        config=config,
        data=(config.parent / settings.edge.data_dir).absolute(),
        reload=True,
        serial=True,
    )


service = make_group(_edge, "edgesync")
