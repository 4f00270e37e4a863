-- GET one of the paths in a file, at random, for wrk; prints how many were answered, and how.
--
-- arguments: file (a path a line), seed

local paths, count = {}, 0

function init(args)
   math.randomseed(tonumber(args[2]))
   for line in io.lines(args[1]) do
      count = count + 1
      paths[count] = wrk.format("GET", line)
   end
end

function request()
   return paths[math.random(count)]
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\nfigures: {"answered":%d,"refused":%d,"errors":%d,"bytes":%d,"seconds":%.6f,"p50_us":%d,"p99_us":%d}\n',
      summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout, summary.bytes,
      summary.duration / 1e6, latency:percentile(50), latency:percentile(99)))
end
