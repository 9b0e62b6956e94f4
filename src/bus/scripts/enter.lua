-- Users are in a room on a worker from now on; any number of users.
-- KEYS members:ROOM active of:WORKER owners   ARGV worker, room, user...
-- Answer: users of the room, version, how many of these users no other worker has
--
-- May run twice for one call. So it doesn't say who came with this run, but who is on this worker alone:
-- whoever enters a user calls it for the first connection only, and then the two are the same.
local members, id = KEYS[1], ARGV[1]
local held = redis.call('HMGET', members, unpack(ARGV, 3))
local came, alone, changes = 0, 0, {}

for i = 1, #held do
    local ids, here = held[i] or '', false

    for at = 1, #ids, #id do
        here = here or string.sub(ids, at, at + #id - 1) == id
    end
    if ids == '' then came = came + 1 end
    if ids == '' or ids == id then alone = alone + 1 end
    if not here then
        changes[#changes + 1] = ARGV[i + 2]
        changes[#changes + 1] = ids .. id
    end
end
if #changes > 0 then
    redis.call('HSET', members, unpack(changes))
end
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('SADD', KEYS[4], id)

local version = redis.call('HGET', members, '')
if came > 0 or not version then
    -- From the clock: it goes on rising after the hash was gone.
    local time = redis.call('TIME')
    version = string.format('%d', math.max(tonumber(version or 0) + 1, time[1] * 1000000 + time[2]))
    redis.call('HSET', members, '', version)
    redis.call('ZADD', KEYS[2], redis.call('HLEN', members) - 1, ARGV[2])
end
return {redis.call('HLEN', members) - 1, version, alone}
