"What fastmix costs and gains, each figure a ratio of two things timed in turn in one process"
