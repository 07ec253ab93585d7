"""crds/prismruns.prism.dev.yaml: what `make crds` writes."""

import sys

import yaml

from prism_api.schema import custom_resource_definition

_HEAD = "# Made from the models in operator/prism_api by `make crds`; not to be edited.\n"


def crd_yaml() -> str:
    """The file's whole text."""
    document = custom_resource_definition()
    return _HEAD + yaml.dump(document, Dumper=_Plain, sort_keys=False, width=100)


class _Plain(yaml.SafeDumper):
    """Writes what occurs twice in full: anchors would be hard to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


if __name__ == "__main__":
    sys.stdout.write(crd_yaml())
