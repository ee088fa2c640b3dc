-- What wrk saw, as one line of JSON; it defines no request(), so that nothing of it runs for each request.
done = function(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format('\n{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
