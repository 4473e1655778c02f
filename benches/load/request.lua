-- Sends one request repeatedly. The environment defines it, so that no token is on a command line. No code runs per
-- request. At the end, the script prints the figures as one line of JSON.

wrk.method = os.getenv("LOAD_METHOD") or "GET"
wrk.body = os.getenv("LOAD_BODY")
local token = os.getenv("LOAD_TOKEN")
if token then wrk.headers["Authorization"] = "Bearer " .. token end
if wrk.body then wrk.headers["Content-Type"] = "application/json" end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %d, "micros": %d, "p50_micros": %d, "p99_micros": %d, "refused": %d, "broken": %d}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
