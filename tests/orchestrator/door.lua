-- wrk's request: bodies of 1 byte to 1 MiB, small ones more often, as people's images are.
local bodies = {}

function init(args)
  for power = 0, 20 do
    bodies[#bodies + 1] = string.rep("x", 2 ^ power)
  end
end

function request()
  return wrk.format("POST", "/v1/ocr", { ["Content-Type"] = "image/png" }, bodies[math.random(#bodies)])
end

function done(summary, latency, requests)
  local e = summary.errors
  local counts = "RESULT requests=%d connect=%d read=%d write=%d status=%d timeout=%d bytes=%d\n"
  io.write(string.format(counts, summary.requests, e.connect, e.read, e.write, e.status, e.timeout, summary.bytes))
end
