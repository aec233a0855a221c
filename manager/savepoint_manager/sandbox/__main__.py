"""What the ``argv`` of a sandboxed kernelspec begins with: no kernel without its sandbox.

The provisioner leaves it out. A front end that starts ``argv`` by itself, such as VS Code, would
start the kernel without a sandbox, and on ports that a sandbox has no network for.
"""

import sys

if __name__ == "__main__":
    sys.exit(
        "This kernelspec's kernels run in a sandbox, which Savepoint's provisioner makes. This "
        "front end starts kernels without provisioners, so it can't have one. Choose another "
        "kernelspec, or a front end on jupyter_client (JupyterLab, jupyter console, nbclient)."
    )
