-- POST /api/v3/messages: bodies for wrk, and an exact count of what was accepted.
--
-- wrk ends by cutting its connections, and a request that was cut may have been accepted. So the load
-- stops before wrk does: after `seconds` delay() puts every connection to sleep, and what is in
-- flight is still answered and counted. delay() is also called after each answer, which makes the last
-- call the time of the last answer; when all connections sleep it prints "quiet" and wrk may be
-- interrupted. Times are CLOCK_MONOTONIC in seconds, as Python's time.monotonic(). One thread only.
--
-- arguments: users, targets a request, bytes of a message, seconds, seed, connections

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long sec; long nsec; } pobox_time;
int clock_gettime(int clock, pobox_time *time);
]]

local CLOCK_MONOTONIC = 1
local SLEEP_MS = 3600 * 1000
local VARIANTS = 64

local threads = {}
local now = ffi.new("pobox_time")

function setup(thread)
   table.insert(threads, thread)
end

local function clock()
   ffi.C.clock_gettime(CLOCK_MONOTONIC, now)
   return tonumber(now.sec) + tonumber(now.nsec) * 1e-9
end

local users, targets, seconds, connections, until_s
local asleep = 0
local heads, tails, seen, turn = {}, {}, {}, 0

-- Words of a commit log, so that a text has neither the entropy of noise nor that of one letter.
local WORDS = { "fix", "the", "test", "for", "when", "a", "channel", "is", "closed", "before", "its",
   "members", "are", "read", "add", "docs", "and", "remove", "unused", "import", "from", "release" }

local function text(length)
   local words, size = {}, 0
   while size <= length do -- a space follows each word but the last
      local word = WORDS[math.random(#WORDS)]
      words[#words + 1] = word
      size = size + #word + 1
   end
   return table.concat(words, " "):sub(1, length)
end

function init(args)
   users, targets = tonumber(args[1]), tonumber(args[2])
   local bytes = tonumber(args[3])
   seconds = tonumber(args[4])
   math.randomseed(tonumber(args[5]))
   connections = tonumber(args[6])
   wrk.headers["Content-Type"] = "application/json"
   -- Names are all of one length, so that a whole request can be made beforehand and cut at them.
   local names = string.rep("#", targets * 14 - 1)
   for i = 1, VARIANTS do
      local before = '{"users":['
      local after = string.format('],"channelId":"bench","title":"%s","content":"', text(40 + i % 40))
      local last = '","sender":"u79368723b8","createdAt":"2026-01-24T15:24:01+01:00"}'
      local counted = targets == 1 and #names or 0 -- of many users the names don't count as message
      local content = text(math.max(1, bytes - #before - #after - #last - counted))
      local whole = wrk.format("POST", "/api/v3/messages", nil, before .. names .. after .. content .. last)
      local from, to = whole:find(names, 1, true)
      heads[i], tails[i] = whole:sub(1, from - 1), whole:sub(to + 1)
   end
   first, last, sent = 0, 0, 0
end

-- `targets` different users at random.
local picked = {}
local function pick()
   if targets == 1 then
      return string.format('"u%010d"', math.random(0, users - 1))
   end
   turn = turn + 1
   local count = 0
   while count < targets do
      local user = math.random(0, users - 1)
      if seen[user] ~= turn then
         seen[user] = turn
         count = count + 1
         picked[count] = string.format('"u%010d"', user)
      end
   end
   return table.concat(picked, ",")
end

function request()
   local variant = math.random(VARIANTS)
   return heads[variant] .. pick() .. tails[variant]
end

function delay()
   local time = clock()
   if first == 0 then
      first = time
      until_s = time + seconds
   end
   if time < until_s then
      sent = sent + 1
      last = time
      return 0
   end
   last = time
   asleep = asleep + 1
   if asleep == connections then
      io.write("quiet\n")
      io.flush()
   end
   return SLEEP_MS
end

function done(summary, latency, requests)
   local thread = threads[1]
   local errors = summary.errors
   io.write(string.format(
      '\nfigures: {"sent":%d,"answered":%d,"refused":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,' ..
      '"first_s":%.6f,"last_s":%.6f,"p50_us":%d,"p99_us":%d,"max_us":%d}\n',
      thread:get("sent"), summary.requests, errors.status, errors.connect, errors.read, errors.write, errors.timeout,
      thread:get("first"), thread:get("last"), latency:percentile(50), latency:percentile(99), latency.max))
end
