"All benchmarks by their names, in the order of the page"
from . import callback, common, epochs, loading, network, processes

device = common.device
_all = (loading.memory, loading.ordinary, callback.callback, callback.mixing, epochs.epochs,
        network.mimo, network.limit, network.one_pass, network.predict, epochs.scaling_data,
        epochs.scaling_slots, epochs.checkpoint, processes.start, processes.peak,
        processes.two_processes)
benchmarks = {f.__name__: f for f in _all}
