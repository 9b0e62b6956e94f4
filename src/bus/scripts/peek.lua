-- peek.lua - where a room stands, right after its channel was subscribed.
--
-- KEYS  1 room  2 members
-- ARGV  1 life
-- Answer: {3} it isn't open under this life; {0, its highest number, users, version of that count}.
local OK, NOT_OPEN = 0, 3

local room = redis.call('HMGET', KEYS[1], 'life', 'n')
if room[1] ~= ARGV[1] then
    return {NOT_OPEN}
end
local version = redis.call('HGET', KEYS[2], '')
local fields = redis.call('HLEN', KEYS[2])
return {OK, tonumber(room[2]), version and fields - 1 or fields, tonumber(version or 0)}
