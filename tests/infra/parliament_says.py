"""What parliament finds in a policy: python -m tests.infra.parliament_says < POLICY, as JSON.

Its last release asks for pkg_resources, which setuptools no longer has; of that it needs one function.
"""

import json
import sys
import types
from importlib.resources import files

STAND_IN = types.SimpleNamespace(resource_filename=lambda package, name: str(files(package) / name))


def main() -> None:
    sys.modules.setdefault("pkg_resources", STAND_IN)  # type: ignore[arg-type]  # whoever imports it asks no more
    import parliament

    found = parliament.analyze_policy_string(sys.stdin.read(), include_community_auditors=True).findings
    print(json.dumps([[one.issue, one.detail] for one in found]))


if __name__ == "__main__":
    main()
