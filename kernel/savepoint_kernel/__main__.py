"""``python -m savepoint_kernel``: start a kernel, or ``install`` its kernelspec."""

import os
import sys

if __name__ == "__main__":
    # Modules that lie in the directory the kernel is started in must not stand in for ours;
    # IPython puts the directory back for user code.
    if sys.path[0] in ("", os.getcwd()):
        del sys.path[0]

    from savepoint_kernel.app import main

    main()
