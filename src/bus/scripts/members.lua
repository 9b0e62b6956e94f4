-- How many users a room has, and the names of some.
-- KEYS members:ROOM   ARGV most names
-- Answer: users, version, name...
local limit = tonumber(ARGV[1])
local answer = {math.max(redis.call('HLEN', KEYS[1]) - 1, 0), redis.call('HGET', KEYS[1], '') or '0'}
local cursor, rounds = '0', 0

-- A round may give fewer than it was asked for; in a hash that lost most of its fields many of them give
-- none.
while limit > 0 and #answer - 2 < limit and rounds < 20 do
    local page = redis.call('HSCAN', KEYS[1], cursor, 'COUNT', limit)

    for i = 1, #page[2], 2 do
        if page[2][i] ~= '' and #answer - 2 < limit then
            answer[#answer + 1] = page[2][i]
        end
    end
    cursor, rounds = page[1], rounds + 1
    if cursor == '0' then break end
end
return answer
