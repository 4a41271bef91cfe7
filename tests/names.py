"Names of parameters in the tests' own names"
import re

def plain(o):
    "`repr` without addresses, which differ between the processes that share the tests"
    return re.sub(r' at 0x[0-9a-f]+', '', repr(o))
