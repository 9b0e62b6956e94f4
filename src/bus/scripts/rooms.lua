-- The rooms of a partition with the most members.
-- KEYS active   ARGV key of rooms without the name, most rooms
-- Answer: (name, members, highest number)...
local active = redis.call('ZREVRANGE', KEYS[1], 0, ARGV[2] - 1, 'WITHSCORES')
local answer = {}

for i = 1, #active, 2 do
    answer[#answer + 1] = active[i]
    answer[#answer + 1] = active[i + 1]
    answer[#answer + 1] = redis.call('HGET', ARGV[1] .. ':' .. active[i], 'n') or '0'
end
return answer
