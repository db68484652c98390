"""Several processes that train one network, and what becomes of it when one is lost.

Every process runs the same program over the same steps; gradients are summed over the
devices of all (`jax.distributed`). Process 0 alone prints and writes the run directory.

`rendezvous` lets the processes meet and starts JAX's own service, `watchdog` ends all
of them when one is lost, and with `collectives` they agree on what to do.

JAX notices a lost process too, but it cannot say so. Seen with jax 0.10.2 and 0.12.0.1
alike: when a process is killed, is stopped or does not come at the start, the others
abort (SIGABRT) with 12 to 60 lines of its C++ code, the killed one after its whole
time-out unless it was process 0. `missed_heartbeat_callback`, which could replace the
abort, crashes (`std::bad_cast`), and `jax_enable_recoverability` lets the others wait
for a stopped process for ever.
"""
