"""The test suite of the Jupyter project for kernels, every test of it that applies."""

from __future__ import annotations

import jupyter_kernel_test


class TestSavepoint(jupyter_kernel_test.KernelTests):
    """Messages, one request after the other, checked against the protocol's schema."""

    kernel_name = "savepoint"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    completion_samples = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import itertools; itertools.zip_l", "matches": {"zip_longest"}},
        {"text": "no_such_name_any", "matches": set()},
    ]
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2", "for i in [1]:"]
    invalid_code_samples = ["import = 7q", "a = )"]
    code_page_something = "zip?"
    code_generate_error = "raise LookupError"
    code_execute_result = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
        {"code": "'x' * 3", "result": "'xxx'"},
        {
            "code": "from IPython.display import HTML; HTML('<b>bold</b>')",
            "mime": "text/html",
            "result": "<b>bold</b>",
        },
    ]
    code_display_data = [
        {"code": "from IPython.display import HTML, display; display(HTML('x'))", "mime": mime}
        for mime in ("text/html", "text/plain")
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "range", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"


class TestSavepointIopubWelcome(jupyter_kernel_test.IopubWelcomeTests):
    """What a client that subscribes to iopub is told."""

    kernel_name = "savepoint"
    support_iopub_welcome = True
