"""Hosts of one's own, or rented by the hour, reached by ssh.

One process per host, its *link*, holds the connection: it outlives the daemon as doors and replicas do, forwards a port
of this machine to each replica (which listens on its host's loopback only), and passes on what the provider asks.

    provider    the five methods, over every host of a spec; asks links, knows no ssh
    link        this process's side of a link: have it up, ask it
    process     the link itself: who may ask it, and how it is found
    server      what it does: list, launch, end, forward
    connection  keeps a session to the host, and says why there is none
    switch      turns the host on and off by the commands of `power`, and says whose cost ends with that
    session     one connection: what is installed, its agent there, its forwarded ports
    keys wheel  what is trusted, and what is installed
    installing  runs on the host before anything is installed there: the standard library only
    agent       runs on the host for as long as the connection: `local` there, on our clock
"""
