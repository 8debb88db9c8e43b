"""GPU machines of AWS EC2, on demand and spot, over zones, types and regions; aws-cn included.

    provider    the five methods
    settings    what a spec says of them, and whose they are
    clients     how AWS is asked: launches once, all else with the SDK's standard retries
    refusals    what AWS's error codes mean to the loop
    market      what could be had, and its prices
    pricelist   the published on-demand prices
    request     a launch, byte for byte the same however often it is repeated
    boot        what a machine does first: its watchdog, then the engine
    wheels      what it installs, known by its hash
    network     who may talk to a machine: this controller's address and nobody else's
    listing     what EC2 says of a machine, in our words
    memory      what EC2 forgets of a machine: its first start, its stops, its end
    contact     by which certificate a machine is known, from the first time on
    notices     what EventBridge has put into a queue
    watch       asks the machines' watchdogs for notices, which renews their lease
    check       what an account lacks

Nothing here knows whether AWS or something that speaks like it answers: AWS_ENDPOINT_URL is the SDK's own affair.
"""
