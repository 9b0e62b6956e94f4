-- open.lua - makes a room known under the present life, in a block of numbers that nobody has used (rule 2).
--
-- Asked twice when there is something to wait for: first without `expected`, then with the life that the
-- first answer named. If it is another one by then (the call was sent again after a failover), all begins
-- anew.
--
-- What Redis forgets under one life (FLUSHALL) the life doesn't tell. So each partition has a key that says
-- since when it is there: who finds it missing makes it anew, and from then on the numbers of before have
-- `failover_grace` to get to the store.
--
-- KEYS  1 room  2 since
-- ARGV  1 life  2 expected life, or empty  3 highest number known to the store and to the worker
--       4 lifetime of the room (ms)  5 failover_grace (ms)  6 1: there may be numbers on their way, else 0
-- Answer: {0} it is open; {3, life, 1 if the room is known from another life else 0, how long (ms) those
-- numbers still have} it isn't yet.
local OK, NOT_OPEN = 0, 3
local BLOCK, YEAR_2020 = 2 ^ 20, 1577836800

local room = redis.call('HMGET', KEYS[1], 'life', 'n', 't', 'g', 'gt')
if room[1] == ARGV[1] then
    return {OK}
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local since = tonumber(redis.call('GET', KEYS[2]) or now + 1)
if since > now then -- the clock was set back, or it is missing
    since = now
    redis.call('SET', KEYS[2], string.format('%d', now))
end
local left = math.max(since + ARGV[5] - now, 0)
if ARGV[2] ~= ARGV[1] or (left > 0 and ARGV[6] == '1') then
    return {NOT_OPEN, ARGV[1], room[1] and 1 or 0, left}
end
-- The block above the highest may have been used by a life of which neither the store nor this Redis has
-- anything, and so may any after it. So blocks follow the clock, one a second: no opening takes that of an
-- earlier one. A clock that is behind still leaves one block free; one that is far out of its mind (2156) is
-- not believed.
local block = math.floor(math.max(tonumber(ARGV[3]), tonumber(room[2] or 0)) / BLOCK) + 2
local second = clock[1] - YEAR_2020
if second > block and second < 2 ^ 32 then
    block = second
end
local n = string.format('%d', block * BLOCK - 1)
redis.call('HSET', KEYS[1], 'life', ARGV[1], 'n', n, 'b', n, 'bt', clock[1] .. '999', 't', room[3] or 0,
    'g', room[4] or 0, 'gt', room[5] or 0)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {OK}
