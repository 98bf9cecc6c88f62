"""PEP 517 backend: setuptools that sees the torch of the environment which is installed into.

Build isolation hides that environment's packages. Naming torch in build-system.requires would
download another one to compile against; this appends the environment's folders to the path
instead, after the isolated ones.
"""

import sys
import sysconfig

from setuptools.build_meta import *  # noqa: F403

for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
    if folder not in sys.path:
        sys.path.append(folder)
