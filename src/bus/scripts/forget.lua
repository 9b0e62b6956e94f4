-- forget.lua - takes a room's oldest records out of the window, because the store deletes them; and says who
-- is in the room. A part at a time, so that nobody waits long for it.
--
-- KEYS  1 window  2 members
-- ARGV  1 up to this number  2 most records
-- Answer: {users, 1 if there may be more records else 0}
local old = redis.call('XRANGE', KEYS[1], '-', ARGV[1], 'COUNT', ARGV[2])

for i = 1, #old do
    redis.call('XDEL', KEYS[1], old[i][1])
end
return {math.max(redis.call('HLEN', KEYS[2]) - 1, 0), #old == tonumber(ARGV[2]) and 1 or 0}
