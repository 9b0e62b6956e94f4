-- A user has no connection in a room on a worker any more.
-- KEYS members:ROOM active of:WORKER owners
-- ARGV worker, room, user, 1 if the worker has nobody else in the room
-- Answer: users of the room, version, 1 if no worker has the user
--
-- May run twice for one call, or after the worker was purged: so it says that the user is gone, not that this
-- run removed it. HDEL before anything else: Redis without memory refuses a script's first write if it might
-- need some.
local members, id = KEYS[1], ARGV[1]
local ids = redis.call('HGET', members, ARGV[3]) or ''
local rest = {}

for at = 1, #ids, #id do
    local one = string.sub(ids, at, at + #id - 1)
    if one ~= id then rest[#rest + 1] = one end
end
rest = table.concat(rest)
if ids ~= '' and rest == '' then
    redis.call('HDEL', members, ARGV[3])
elseif rest ~= ids then
    redis.call('HSET', members, ARGV[3], rest)
end
if ARGV[4] == '1' then
    redis.call('SREM', KEYS[3], ARGV[2])
    if redis.call('EXISTS', KEYS[3]) == 0 then
        redis.call('SREM', KEYS[4], id)
    end
end

local count = math.max(redis.call('HLEN', members) - 1, 0)
local version = redis.call('HGET', members, '') or '0'
if ids ~= '' and rest == '' then
    local time = redis.call('TIME')
    version = string.format('%d', math.max(version + 1, time[1] * 1000000 + time[2]))
    if count > 0 then
        redis.call('HSET', members, '', version)
        redis.call('ZADD', KEYS[2], count, ARGV[2])
    else
        redis.call('DEL', members)
        redis.call('ZREM', KEYS[2], ARGV[2])
    end
end
return {count, version, rest == '' and 1 or 0}
